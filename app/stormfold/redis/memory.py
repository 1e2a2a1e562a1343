"""Memory of Redis."""

from dataclasses import dataclass

from stormfold.errors import ActionRequired
from stormfold.redis.errors import translate_errors
from stormfold.redis.script import RedisAccess

MAXMEMORY_POLICY = "noeviction"
"""Under any other policy Redis can evict open groups."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory as Redis reports it (bytes)."""

    used: int
    """What Redis compares with maxmemory: without the buffers of its log and of replicas, which grow with a slow disk
    or a replica that hangs, and shrink on their own."""
    maximum: int
    """0: no limit."""
    fragmentation: float
    evicted: int
    policy: str

    @property
    def share(self) -> float:
        """Used of maximum, 0 without a maximum."""
        return self.used / self.maximum if self.maximum else 0.0

    def check_eviction(self) -> None:
        """Raises `ActionRequired` if Redis may evict keys, or has evicted some."""
        if self.evicted or (self.maximum and self.policy != MAXMEMORY_POLICY):
            raise ActionRequired(
                f"Redis may evict keys: maxmemory-policy is {self.policy}, {self.evicted} keys were evicted",
                f"set maxmemory-policy {MAXMEMORY_POLICY}",
            )


class MemoryAccess(RedisAccess):
    """Reads the memory of Redis."""

    async def memory(self) -> Memory:
        """Memory as Redis reports it."""
        async with translate_errors():
            info = await self.redis.info()
        return Memory(
            used=info["used_memory"] - info.get("mem_not_counted_for_evict", 0),
            maximum=info.get("maxmemory", 0),
            fragmentation=float(info.get("mem_fragmentation_ratio", 0)),
            evicted=info.get("evicted_keys", 0),
            policy=info.get("maxmemory_policy", ""),
        )
