"""Redis: what is open, how far it has been folded, and who is closing it. See `redis.py` for the one class."""
