"""Other stream processors that fold alerts by group and window, each written as its own documentation recommends.

Each is a program that reads `KAFKA`, `TOPIC`, `REDIS`, `WINDOWS` (`session` or `tumbling`), `MEMBERS` (1 if it keeps
them) and `FOLDER`, for its state, from its environment, and prints `done N M` when it has counted N alerts and its
largest window has M members.
"""
