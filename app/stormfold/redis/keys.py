"""Every Redis key name, with its type and its time to live.

All keys stand under `<prefix>:{0}:` (one hash slot, so that a script may touch them together), and all but the epoch
under its number too: what an older epoch left behind can't be mistaken for the present, and is swept away later.
Nothing that holds counts or positions has a time to live; it goes when it is settled.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class VersionKeys:
    """Key names of one epoch."""

    base: str

    @property
    def positions(self) -> str:
        """hash, no TTL: keyed partition → next offset, `<partition>:t` → timestamp of the record before it (ms)."""
        return self.base + "pos"

    @property
    def origins(self) -> str:
        """hash, no TTL: `<keyed partition>:<alerts partition>` → newest origin folded, `<offset>:<index>`."""
        return self.base + "org"

    @property
    def next(self) -> str:
        """hash, no TTL: windows asked for (`gap`, `grace`, `slice`), `by` → start of the worker that asked (ms), keyed
        partition → where it ended then: they hold once that is folded and nothing is open."""
        return self.base + "next"

    @property
    def marks(self) -> str:
        """hash, no TTL: `<keyed partition>:<alerts partition>` → event time reached (ms); `n` → partitions of `alerts`;
        `h` → the horizon (ms); `b` → number of calls that brought marks."""
        return self.base + "mark"

    @property
    def due(self) -> str:
        """zset, no TTL: open group → watermark at which it may have something final (ms)."""
        return self.base + "due"

    @property
    def open(self) -> str:
        """zset, no TTL: open group → start of its first bucket (ms)."""
        return self.base + "open"

    @property
    def group(self) -> str:
        """Prefix. hash, no TTL: `m` → `GroupMeta` in msgpack, `<bucket start>` → example."""
        return self.base + "g:"

    @property
    def bucket(self) -> str:
        """Prefix of `<group>:<start>`. hash, no TTL: `a` → aggregate, 8-byte fingerprint → member;
        `m` → `GroupMeta`, if it is not the group's."""
        return self.base + "b:"

    @property
    def lease(self) -> str:
        """Prefix. string, TTL: the lease time: token of the closer that holds the group."""
        return self.base + "l:"

    @property
    def void(self) -> str:
        """Never exists: scripts that must run on a full Redis begin by deleting it."""
        return self.base + "void"


@dataclass(frozen=True, slots=True)
class Keys:
    """Key names under one prefix."""

    prefix: str

    @property
    def root(self) -> str:
        """What every key begins with."""
        return f"{self.prefix}:{{0}}:"

    @property
    def epoch(self) -> str:
        """hash, no TTL: the epoch that stands: `number`, windows, `by` → start of the worker that has them (ms),
        `partitions`, rebuilt: `begin` (B), `closed` (C), after other windows: `since` (S)."""
        return self.root + "epoch"

    @property
    def intake(self) -> str:
        """hash, no TTL: partition of `alerts` → `<next offset> <note>` as committed; Kafka forgets deleted topics'."""
        return self.root + "intake"

    def of(self, number: int) -> VersionKeys:
        """Keys of the epoch with that number."""
        return VersionKeys(f"{self.root}{number}:")
