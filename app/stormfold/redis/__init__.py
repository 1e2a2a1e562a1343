"""Redis: what is open, and how far it is folded. `store.py` has all operations, `layout.py` every byte."""
