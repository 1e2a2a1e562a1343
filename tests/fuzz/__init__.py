"""Fuzzing of everything that reads input; `make fuzz` goes on for as long as it is told."""
