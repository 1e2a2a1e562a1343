"""Servers with TLS, authentication and access control: accepted and refused workers, and their messages."""
