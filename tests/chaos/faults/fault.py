"""The kind of fault, and proofs that a fault struck."""

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from tests.chaos.toxiproxy import Proxy
from tests.chaos.world import Slot, World

Proof = Callable[[], Awaitable[bool]]
"""Returns, while a fault is active, whether it struck anything. None if it always strikes."""
Broken = AbstractAsyncContextManager[Proof | None]

HEALTHY = 0.09
"""Seconds within which a server answers through an intact way: less than any latency that a fault adds."""
READY = 120.0
"""Seconds within which a new worker must be ready, even while another fault is active."""


class Fault(NamedTuple):
    """One kind of fault. Its context manager yields the proof, if it has one."""

    part: str
    """The part that it breaks. Two faults at once break different parts."""
    description: str
    """Its description in the table."""
    seconds: tuple[float, float]
    """Shortest and longest duration."""
    act: Callable[[World, Random], Broken]
    sweeping: bool = False
    """Whether it hits every worker or every resource. Such faults are tried first, alone and in pairs: after them one
    worker lives until the end of the run, and resources accumulate."""
    takes: float = 0.0
    """Seconds that it takes in addition to its duration, approximately."""
    settles: Callable[[World], Coroutine[Any, Any, None]] | None = None
    """Waits, after the repair and before the next turn, until servers have settled; the pipeline recovers at the same
    time."""


async def _always(struck: bool) -> bool:
    return struck


def known(struck: bool) -> Proof:
    """Returns a proof of what is known already."""
    return lambda: _always(struck)


async def counts_more(slots: Callable[[], Sequence[Slot]], metric: str) -> Proof:
    """Returns a proof that holds if a metric of some worker grows; workers that do not answer now are ignored."""
    before = {slot.http: await slot.metric(metric) for slot in slots()}

    async def more(slot: Slot) -> bool:
        then, now = before.get(slot.http, 0.0), await slot.metric(metric)
        return then is not None and now is not None and now > then

    async def proof() -> bool:
        return any([await more(slot) for slot in slots()])

    return proof


def stopped(*pids: int) -> Proof:
    """Returns a proof that holds if all processes are stopped."""
    stats = [Path(f"/proc/{pid}/stat") for pid in pids]
    return lambda: _always(all(stat.read_text().rpartition(")")[2].split()[0] == "T" for stat in stats))


def slowed(proxies: Sequence[Proxy], question: bytes) -> Proof:
    """Returns a proof that holds if no server answers in the usual time through these ways."""

    async def proof() -> bool:
        return all([await proxy.answers(question) > HEALTHY for proxy in proxies])

    return proof
