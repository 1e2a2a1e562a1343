"""What all operations on Redis share: a client, and the key names under one prefix."""

from dataclasses import dataclass, field
from typing import Any

from stormfold.redis.layout import Keys


@dataclass
class RedisAccess:
    """A client and its keys."""

    redis: Any
    """A `redis.asyncio.Redis` that does not decode replies; its own types are `bytes | str` for each of them."""
    prefix: str
    keys: Keys = field(init=False)

    def __post_init__(self) -> None:
        self.keys = Keys(self.prefix)
