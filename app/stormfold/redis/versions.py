"""State versions: the current one with its positions, how the next one is opened, and what old ones left behind."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from stormfold.eventtime import PartitionPair
from stormfold.merge import SourcePosition
from stormfold.positions import Position
from stormfold.redis import layout
from stormfold.redis.errors import RedisOutOfMemory, StaleStateVersion, translate_errors
from stormfold.redis.layout import Key
from stormfold.redis.script import Packed, RedisAccess, script
from stormfold.window import Rebuild, Windows

SWEEP_CHUNK = 500
"""Keys deleted by one command."""


@dataclass(frozen=True, slots=True)
class StateVersion:
    """A numbered state in Redis."""

    number: int
    windows: Windows
    partitions: int
    """Partitions of the keyed topic: they stay the same within a state version."""
    rebuild: Rebuild | None
    """From where the keyed topic is read again; None if from its beginning, or if the version before was continued."""
    windows_since: int | None = None
    """Alerts before it were counted under other windows (ms); None if there never were others."""
    requested_at: int = 0
    """Start of the worker that requested the windows (ms); 0 if not known."""

    @property
    def skip_before(self) -> int | None:
        """Alerts before this time (ms) were counted before: a rebuild reads them again and skips them."""
        if self.rebuild is None:
            return None
        begin = self.rebuild.rebuild_from
        return begin if self.windows_since is None else max(begin, self.windows_since)


@dataclass(frozen=True, slots=True)
class PendingWindows:
    """Windows that apply once no group is open."""

    windows: Windows
    requested_at: int
    """Start of the worker that requested them (ms)."""
    ends: Mapping[int, int]
    """End of each keyed partition at the time of the request."""


@dataclass(slots=True)
class State:
    """What a worker needs to continue folding."""

    version: StateVersion
    positions: dict[int, Position]
    source_positions: dict[PartitionPair, SourcePosition]


@script("state_version", "void", "positions", "pending_windows")
def open_state(*, known: str, fields: Packed, starts: Packed) -> None:
    """Opens a state version if the known one is current."""


@script("state_version", "void", "pending_windows", "due", "positions", "source_positions", "marks", "number")
def change_windows(
    *, new_positions: Key, new_source_positions: Key, new_marks: Key, committed: Packed, closed: int | None
) -> None:
    """Continues in the next state version under the pending windows."""


class VersionAccess(RedisAccess):
    """Reads and opens state versions."""

    _swept: int | None = None
    """State version until which this process has swept: a full Redis does not remember it."""

    async def load(self) -> State | None:
        """Current state version with its positions, or None if Redis holds none.

        Raises `StaleStateVersion` if another one was opened between the reads.
        """
        version = await self.version()
        if version is None:
            return None
        names = self.keys.of(version.number)
        async with translate_errors():
            # Not a transaction: a full Redis refuses one even if it only reads. Positions come first: if they move
            # before the source positions are read, the next fold call fails with `PositionConflict`, and the state is
            # loaded again.
            pipeline = self.redis.pipeline(transaction=False).hgetall(names.positions).hgetall(names.source_positions)
            positions, sources = await pipeline.execute()
        if not positions:
            raise StaleStateVersion
        return State(
            version,
            layout.read_positions(positions),
            {layout.read_pair(name): layout.read_pair(value) for name, value in sources.items()},
        )

    async def version(self) -> StateVersion | None:
        """The current state version."""
        values = await self._numbers(self.keys.state_version)
        return _read_version(values) if layout.NUMBER in values else None

    async def other_layout(self) -> int:
        """Number of the state version if it was written in another layout; 0 if there is none."""
        values = await self._numbers(self.keys.state_version)
        return max((value for name, value in values.items() if name.startswith(layout.ANY_NUMBER)), default=0)

    async def _numbers(self, key: Key) -> dict[str, int]:
        async with translate_errors():
            fields: dict[bytes, bytes] = await self.redis.hgetall(key)
        return {name.decode(): int(value) for name, value in fields.items()}

    async def open_state_version(
        self, known: int | None, version: StateVersion, starts: Mapping[int, Position]
    ) -> bool:
        """Opens `version` at `starts` if the version of number `known` is current; False if it is not."""
        known_number = "" if known is None else str(known)
        fields, positions = _version_fields(version), layout.position_fields(starts.items())
        return bool(await open_state(self, version.number, known=known_number, fields=fields, starts=positions))

    async def request_windows(self, version: StateVersion, pending: PendingWindows) -> None:
        """Requests windows to follow those of `version`, in place of an earlier request."""
        fields = _windows_fields(pending.windows, pending.requested_at)
        fields |= {str(partition): str(end) for partition, end in pending.ends.items()}
        async with translate_errors():
            await self.redis.hset(self.keys.of(version.number).pending_windows, mapping=fields)

    async def pending_windows(self, version: StateVersion) -> PendingWindows | None:
        """The windows that were requested, if any."""
        values = await self._numbers(self.keys.of(version.number).pending_windows)
        ends = {int(name): value for name, value in values.items() if name.isdecimal()}
        return PendingWindows(_read_windows(values), values[layout.REQUESTED_AT], ends) if values else None

    async def change_windows(
        self, version: StateVersion, committed: Mapping[int, int], closed: int | None = None
    ) -> bool:
        """Opens the next state version under the pending windows; False if there are none, or not all is closed.

        Also False if Redis went back: if a position is before the offset that fold has `committed` to Kafka. `closed`
        is the committed `closed_before` (ms): what begins before it is not counted again under the new windows.
        """
        new = self.keys.of(version.number + 1)
        positions, source_positions = new.positions, new.source_positions
        changed = await change_windows(
            self, version.number, new_positions=positions, new_source_positions=source_positions, new_marks=new.marks,
            committed={str(partition): str(offset) for partition, offset in committed.items()}, closed=closed,
        )  # fmt: skip
        return bool(changed)

    async def reset_positions(self, version: StateVersion, partitions: Iterable[int]) -> None:
        """Resets keyed partitions to offset 0; workers that fold them load their positions again."""
        fields = layout.position_fields((partition, Position(0)) for partition in partitions)
        if fields:
            async with translate_errors():
                await self.redis.hset(self.keys.of(version.number).positions, mapping=fields)

    async def save_intake_commits(self, commits: Mapping[int, tuple[int, str]]) -> None:
        """Keeps what intake has committed: partition → next offset and metadata."""
        async with translate_errors():
            await self.redis.hset(
                self.keys.intake, mapping={str(p): f"{offset} {metadata}" for p, (offset, metadata) in commits.items()}
            )

    async def intake_commits(self) -> dict[int, tuple[int, str]]:
        """What intake has committed, as far as Redis has it."""
        async with translate_errors():
            fields: dict[bytes, bytes] = await self.redis.hgetall(self.keys.intake)
        split = {int(partition): value.decode().split(" ", 1) for partition, value in fields.items()}
        return {partition: (int(offset), metadata) for partition, (offset, metadata) in split.items()}

    async def sweep_once(self, current: int) -> None:
        """Calls `sweep` unless it was completed since `current` was opened. A full Redis cannot store that it was."""
        if current in (self._swept, (await self._numbers(self.keys.state_version)).get(layout.SWEPT)):
            return
        await self.sweep(current)
        self._swept = current
        with suppress(RedisOutOfMemory):
            async with translate_errors():
                await self.redis.hset(self.keys.state_version, layout.SWEPT, current)

    async def sweep(self, current: int) -> int:
        """Deletes all keys of state versions before `current`; returns their number."""
        root = self.keys.root.encode()
        swept = 0
        async with translate_errors():
            old: list[bytes] = []
            async for key in self.redis.scan_iter(match=root + b"[0-9]*", count=1000):
                if int(key[len(root) :].split(b":")[0]) < current:
                    old.append(key)
                if len(old) >= SWEEP_CHUNK:
                    swept += await self.redis.unlink(*old)
                    old.clear()
            if old:
                swept += await self.redis.unlink(*old)
        return swept


def _version_fields(version: StateVersion) -> dict[str, str]:
    fields = {
        layout.NUMBER: str(version.number),
        **_windows_fields(version.windows, version.requested_at),
        layout.PARTITIONS: str(version.partitions),
    }
    if version.rebuild is not None:
        fields[layout.REBUILD_FROM] = str(version.rebuild.rebuild_from)
        fields[layout.CLOSED_BEFORE] = str(version.rebuild.closed_before)
    if version.windows_since is not None:
        fields[layout.WINDOWS_SINCE] = str(version.windows_since)
    return fields


def _read_version(values: Mapping[str, int]) -> StateVersion:
    rebuild_from, closed_before = values.get(layout.REBUILD_FROM), values.get(layout.CLOSED_BEFORE)
    return StateVersion(
        number=values[layout.NUMBER],
        windows=_read_windows(values),
        partitions=values[layout.PARTITIONS],
        rebuild=None if rebuild_from is None or closed_before is None else Rebuild(rebuild_from, closed_before),
        windows_since=values.get(layout.WINDOWS_SINCE),
        requested_at=values.get(layout.REQUESTED_AT, 0),
    )


def _windows_fields(windows: Windows, requested_at: int) -> dict[str, str]:
    values = (windows.gap, windows.grace, windows.slice_length, requested_at)
    names = (layout.GAP, layout.GRACE, layout.SLICE, layout.REQUESTED_AT)
    return {name: str(value) for name, value in zip(names, values, strict=True)}


def _read_windows(values: Mapping[str, int]) -> Windows:
    return Windows(values[layout.GAP], values[layout.GRACE], values[layout.SLICE])
