"""Fuzzing of all code that reads input; `make fuzz` runs it for longer than the tests."""
