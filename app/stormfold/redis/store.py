"""All operations on the state in Redis, in one class. Each Lua script has one typed function, next to its use.

Raises `Retry` while Redis is unavailable or full, `ActionRequired` for credentials and permissions.
"""

from stormfold.redis.announced import AnnouncedAccess
from stormfold.redis.clock import ClockAccess
from stormfold.redis.close import CloseAccess
from stormfold.redis.fold import FoldAccess
from stormfold.redis.lease import LeaseAccess
from stormfold.redis.memory import MemoryAccess
from stormfold.redis.versions import VersionAccess


class Store(VersionAccess, FoldAccess, CloseAccess, ClockAccess, LeaseAccess, MemoryAccess, AnnouncedAccess):
    """The state under one key prefix."""
