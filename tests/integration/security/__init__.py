"""Servers with security on: what lets a worker in, what keeps it out, and what it says then."""
