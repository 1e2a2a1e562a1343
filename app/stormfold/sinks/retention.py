"""Selects the resources that retention deletes: by age, then by number."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Protocol, TypeVar


class StoredResource(Protocol):
    """A resource in a sink, without the annotation that keeps it."""

    @property
    def namespace(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def last_seen(self) -> int:
        """Unix time in seconds."""


R = TypeVar("R", bound=StoredResource)


def select_expired(resources: Iterable[R], now: int, retention: int, limit: int) -> list[R]:
    """Those last seen more than `retention` ms before `now` (ms), and the oldest beyond `limit` per namespace.

    Oldest first: a deletion that is interrupted has then deleted the right ones.
    """
    by_namespace: dict[str, list[R]] = defaultdict(list)
    for resource in resources:
        by_namespace[resource.namespace].append(resource)
    expired: list[R] = []
    for group in by_namespace.values():
        group.sort(key=_age)
        excess = len(group) - limit
        expired += (
            resource
            for index, resource in enumerate(group)
            if index < excess or resource.last_seen * 1000 < now - retention
        )
    return sorted(expired, key=_age)


def _age(resource: StoredResource) -> tuple[int, str]:
    return resource.last_seen, resource.name
