"""Health of a worker's components, as each of them reports it: last heartbeat, and the problem that stops its work."""

import time
from dataclasses import dataclass, field


@dataclass(slots=True)
class Component:
    """One component: a stage, or a server that stages depend on."""

    last_heartbeat: float
    """Monotonic time (s) of its last heartbeat."""
    problem: str | None = None
    """Why it cannot do its work; None while it can."""
    hint: str | None = None
    """What to do about the problem."""
    since: float = 0.0
    """Wall-clock time (s) since which it has a problem."""


@dataclass(slots=True)
class Health:
    """The worker's components. One without a heartbeat for `timeout` seconds is stale."""

    timeout: float = 60.0
    components: dict[str, Component] = field(default_factory=dict)

    def heartbeat(self, name: str) -> None:
        """Records that the component is running, whether it had work or not."""
        component = self.components.get(name)
        if component is None:
            self.components[name] = Component(time.monotonic())
        else:
            component.last_heartbeat = time.monotonic()

    def set_unhealthy(self, name: str, problem: str, hint: str | None = None) -> bool:
        """Records why the component cannot do its work; True if the problem is new."""
        component = self.components.setdefault(name, Component(time.monotonic()))
        component.last_heartbeat = time.monotonic()
        changed = component.problem != problem
        if component.problem is None:
            component.since = time.time()
        component.problem, component.hint = problem, hint
        return changed

    def set_healthy(self, name: str) -> None:
        """Records that the component does its work."""
        component = self.components.setdefault(name, Component(time.monotonic()))
        component.last_heartbeat, component.problem, component.hint = time.monotonic(), None, None

    def clear(self, name: str, problem: str) -> None:
        """Clears this problem; a different one that was reported since stays."""
        if name in self.components and self.components[name].problem == problem:
            self.set_healthy(name)

    def stale(self) -> list[str]:
        """Components without a heartbeat for longer than `timeout`."""
        now = time.monotonic()
        return [name for name, item in self.components.items() if now - item.last_heartbeat > self.timeout]

    def problems(self) -> dict[str, Component]:
        """Components that cannot do their work."""
        return {name: item for name, item in self.components.items() if item.problem is not None}
