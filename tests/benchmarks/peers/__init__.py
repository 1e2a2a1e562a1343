"""Other stream processors at the same work, each as its own documentation teaches: count alerts by group and window.

Each is a program that finds `KAFKA`, `TOPIC`, `REDIS`, `WINDOWS` (`session` or `tumbling`) and a folder for its state,
`FOLDER`, in its environment, and prints `done N` whenever it has counted so many alerts.
"""
