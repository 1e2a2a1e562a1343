"""The incidents that are announced, for the next worker that announces. Nothing that is counted depends on them."""

from collections.abc import Iterable, Mapping

from stormfold.redis.errors import translate_errors
from stormfold.redis.script import RedisAccess


class AnnouncedAccess(RedisAccess):
    """Remembers announced incidents."""

    async def announced(self) -> dict[bytes, bytes]:
        """The announced incidents by scope, both as JSON."""
        async with translate_errors():
            found: dict[bytes, bytes] = await self.redis.hgetall(self.keys.announced)
        return found

    async def keep_announced(self, firing: Mapping[bytes, bytes], over: Iterable[bytes]) -> None:
        """Adds and removes announced incidents."""
        pipeline = self.redis.pipeline(transaction=False)
        # Deletions first: a full Redis takes them.
        for scope in over:
            pipeline.hdel(self.keys.announced, scope)
        for scope, value in firing.items():
            pipeline.hset(self.keys.announced, scope, value)
        async with translate_errors():
            await pipeline.execute()
