"""The namespaces that cannot be written, why, and how health reports it."""

import asyncio
from collections.abc import Collection, Hashable

from stormfold.errors import StormfoldError
from stormfold.health import Health
from stormfold.text import pluralize

MAX_PROBLEMS = 3
"""Different problems that health shows; the log has all."""
MAX_NAMESPACES = 5
"""Namespaces that health names for one problem."""


class BlockedNamespaces:
    """Who writes to a namespace is a lane. A namespace is blocked while an attempt of any of its lanes has failed."""

    def __init__(self, component: str, health: Health) -> None:
        self._component = component
        self._health = health
        self._failed: dict[str, dict[Hashable, StormfoldError]] = {}
        self._retry_slots: dict[str, asyncio.Semaphore] = {}
        self._reported: str | None = None
        self.full: Collection[int] = ()
        """Partitions that are not read further until a namespace can be written."""

    def __contains__(self, namespace: str) -> bool:
        return namespace in self._failed

    def retry_slot(self, namespace: str) -> asyncio.Semaphore:
        """To be held during an attempt for a blocked namespace: its slow failures must not take all slots to write."""
        return self._retry_slots.setdefault(namespace, asyncio.Semaphore(1))

    def add(self, namespace: str, lane: Hashable, error: StormfoldError) -> bool:
        """Records a failed attempt; returns whether the problem of the namespace is new."""
        before = self._problem(namespace)
        self._failed.setdefault(namespace, {})[lane] = error
        self.report()
        return str(self._problem(namespace)) != str(before)

    def remove(self, namespace: str, lane: Hashable) -> None:
        """Records a successful attempt."""
        failed = self._failed.get(namespace, {})
        if lane in failed:
            del failed[lane]
            if not failed:
                del self._failed[namespace]
                self._retry_slots.pop(namespace, None)
            self.report()

    def clear(self) -> None:
        """Forgets everything: the lanes have ended."""
        self._failed.clear()
        self._retry_slots.clear()

    def report(self) -> None:
        """Reports to health."""
        namespaces: dict[str, list[str]] = {}
        hint = None
        for namespace in sorted(self._failed):
            error = self._problem(namespace)
            namespaces.setdefault(str(error), []).append(namespace)
            hint = hint or (error.hint if error else None)
        parts = [f"{problem} ({_names(found)})" for problem, found in namespaces.items()]
        if len(parts) > MAX_PROBLEMS:
            parts[MAX_PROBLEMS:] = [f"and {pluralize(len(parts) - MAX_PROBLEMS, 'more problem')}"]
        if parts and self.full:
            parts.append(f"too much waits to read on in partitions {', '.join(map(str, sorted(self.full)))}")
        if parts:
            self._reported = "; ".join(parts)
            self._health.set_unhealthy(self._component, self._reported, hint)
        elif self._reported is not None:
            self._health.clear(self._component, self._reported)
            self._reported = None

    def _problem(self, namespace: str) -> StormfoldError | None:
        """The problem of the lane that failed first, so that it changes rarely."""
        return next(iter(self._failed.get(namespace, {}).values()), None)


def _names(namespaces: list[str]) -> str:
    shown = [namespace or "without a valid one" for namespace in namespaces[:MAX_NAMESPACES]]
    more = len(namespaces) - len(shown)
    label = "namespace" if len(namespaces) == 1 else "namespaces"
    return f"{label} {', '.join(shown)}" + (f" and {more:,} more" if more else "")
