"""Which storms have to go: by age, then by number."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Protocol, TypeVar


class Stored(Protocol):
    """A storm in a sink that nobody asked to keep."""

    @property
    def namespace(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def last_seen(self) -> int:
        """Epoch seconds."""


S = TypeVar("S", bound=Stored)


def surplus(storms: Iterable[S], now: int, retention: int, max_storms: int) -> list[S]:
    """Those last seen more than `retention` ms before `now` (ms), and the oldest beyond `max_storms` per namespace.

    Oldest first, so that a clean-up cut short has deleted the right ones.
    """
    oldest = now - retention
    by_namespace: dict[str, list[S]] = defaultdict(list)
    for storm in storms:
        by_namespace[storm.namespace].append(storm)
    going: list[S] = []
    for group in by_namespace.values():
        group.sort(key=_age)
        excess = len(group) - max_storms
        going += (storm for at, storm in enumerate(group) if at < excess or storm.last_seen * 1000 < oldest)
    return sorted(going, key=_age)


def _age(storm: Stored) -> tuple[int, str]:
    return storm.last_seen, storm.name
