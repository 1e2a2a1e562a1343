"""Members as the peers in Python keep them in the state of a window: fingerprint → count, newest time, resource."""

from hashlib import blake2b
from typing import Any

Members = dict[str, list[Any]]
"""The state of a window, of types that JSON has."""


def group(labels: dict[str, str]) -> str:
    """Returns the name of the group of an alert."""
    return labels["alertname"] + "/" + labels["cluster"]


def member(labels: dict[str, str], time: float) -> tuple[str, list[Any]]:
    """Returns the fingerprint of an alert, and the member that it is alone."""
    text = "\xff".join(f"{name}\xff{value}" for name, value in sorted(labels.items()))
    fingerprint = blake2b(text.encode(), digest_size=8).hexdigest()
    return fingerprint, [1, time, f"Pod/{labels['namespace']}/{labels['pod']}"]


def add(members: Members, fingerprint: str, new: list[Any]) -> Members:
    """Adds a member in place."""
    old = members.get(fingerprint)
    members[fingerprint] = [old[0] + new[0], max(old[1], new[1]), old[2]] if old else new
    return members


def merge(members: Members, others: Members) -> Members:
    """Adds all members of another window in place."""
    for fingerprint, other in others.items():
        add(members, fingerprint, other)
    return members
