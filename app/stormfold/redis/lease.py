"""The lease of work that one worker at a time does for the whole pipeline."""

from enum import IntEnum

from stormfold.redis.layout import Key
from stormfold.redis.script import RedisAccess, script


class LeaseReply(IntEnum):
    """What became of a request for the lease."""

    OTHERS = 0
    """Another worker has it."""
    TAKEN = 1
    """Nobody had it: work begins from what the topics have."""
    EXTENDED = 2
    """This worker had it all the time."""


@script("void")
def hold_lease(*, lease_key: Key, token: str, lease: int) -> None:
    """Takes or extends a lease."""


class LeaseAccess(RedisAccess):
    """Takes leases."""

    async def hold_correlation(self, token: str, lease: int) -> LeaseReply:
        """Takes or extends the lease of correlation for `lease` ms. It belongs to no state version."""
        _, reply = await hold_lease(self, 0, lease_key=self.keys.correlation, token=token, lease=lease)
        return LeaseReply(reply)
