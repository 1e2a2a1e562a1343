"""The whole protocol on one clock: producers, intake, fold and closers as they are, Redis as it is, a Kafka in memory.

Each step is the turn of one actor; it may fail half way, be repeated, or be overtaken by others. In the end everything
is drained and the published aggregates are compared with the plain model of the keyed topic.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import count
from random import Random
from typing import Any

import msgspec
import pytest
from msgspec import structs
from redis.asyncio import Redis

from stormfold.config import Config, LoadedConfig, ReloadableConfig
from stormfold.errors import Retry, StormfoldError
from stormfold.group import GroupMeta
from stormfold.health import Health
from stormfold.kafka.committed import CommitMetadata
from stormfold.kafka.producer import Pair, ProducerRecord
from stormfold.keyed_record import (
    ALERT,
    HEAD,
    LATE,
    MARKS,
    NOT_QUALIFIED,
    RESOLVED,
    Body,
    decode_marks,
)
from stormfold.manifest import from_manifest
from stormfold.merge import Merged
from stormfold.redis.clock import Clock as StoreClock
from stormfold.redis.fold import Limits
from stormfold.redis.store import Store
from stormfold.redis.versions import StateVersion
from stormfold.resource import Resource
from stormfold.routing import Route
from stormfold.settings import Settings
from stormfold.stages.close import Close
from stormfold.stages.fold import Fold
from stormfold.stages.intake import Intake
from stormfold.stages.redis_monitor import RedisMonitor
from stormfold.storm import Aggregate
from stormfold.window import Windows
from tests.integration.model import plain
from tests.integration.model.broker import Broker, Clock, Crash, Fault, GroupMember, Producer

START = 1_767_225_600_000
NEVER = 10**12
DEFAULT = Windows()
IDLE_TIMEOUT = 900_000
OTHERS = (Windows(gap=2_000, grace=1_000, slice_length=6_000), Windows(gap=60_000, grace=1_000, slice_length=120_000))
"""Windows that a worker may be started with instead."""
PREFIX = "model"
_prefixes = count()


class LosesReplies(Store):
    """A store that may lose the reply of its next fold call."""

    lose: BaseException | None = None

    async def fold(self, version: StateVersion, moves: Any, merged: Merged, limits: Limits) -> tuple[StoreClock, int]:
        folded = await super().fold(version, moves, merged, limits)
        if self.lose:
            lost, self.lose = self.lose, None
            raise lost
        return folded


class World:
    """All actors and servers, and the steps they can take. Every step draws what it needs from a `Random`."""

    def __init__(
        self, redis: Redis, patch: pytest.MonkeyPatch, windows: Windows, alerts: int, keyed: int, random: Random,
        idle_timeout: int = NEVER,
    ) -> None:  # fmt: skip
        self.redis = redis
        self.windows = windows
        self.clock = Clock(START)
        self.settings = Settings(redis_prefix=f"{PREFIX}{next(_prefixes)}")
        routes = (Route("default", group_by=("alertname",), storm_alerts=3, storm_resources=2),)
        self.config = Config(windows=windows, idle_timeout=idle_timeout, routes=routes)
        names = self.settings
        topics = {
            names.alerts_topic: alerts,
            names.keyed_topic: keyed,
            names.storms_topic: 1,
            names.alerts_dlq_topic: 1,
        }
        self.broker = Broker(self.clock, topics, random)
        self.sent = self.poison = 0
        self.commits_of_c: list[tuple[int, int]] = []
        """(C, storm records published until then) of every commit of fold."""
        self.broker.delivered = self._marks_keep_their_promise
        self.snapshot: dict[bytes, Any] | None = None
        for module in ("intake", "fold", "close"):
            patch.setattr(f"stormfold.stages.{module}.time", self.clock)
        patch.setattr("stormfold.config.reloadable.time", self.clock)
        for module in ("intake", "close"):
            # Polls and claims are worked through in parts: few alerts at once make many of them.
            patch.setattr(f"stormfold.stages.{module}.MAX_ALERTS_PER_CHUNK", random.choice((1, 2, 5, 1000)))
        for module in ("intake", "fold", "state_version", "skip_expired"):
            patch.setattr(f"stormfold.stages.{module}.read_committed", self.broker.read_committed, raising=False)
        patch.setattr("stormfold.stages.state_version.partitions_of", self.broker.partitions_of)
        patch.setattr("stormfold.stages.fold.ROWS_PER_CALL", random.choice((1, 5, 1000)))
        self.intakes = [self._intake() for _ in range(2)]
        self.folds = [self._fold() for _ in range(2)]
        self.zombies: list[GroupMember] = []
        self.closers = [self._closer() for _ in range(2)]
        for members, partitions in ((self.intakes, alerts), (self.folds, keyed)):
            for partition in range(partitions):
                members[partition % 2].partitions.add(partition)

    # Actors

    def _store(self) -> LosesReplies:
        return LosesReplies(self.redis, self.settings.redis_prefix)

    def _intake(self) -> GroupMember:
        def make_stage(member: Any) -> Any:
            stage: Any = Intake(self.settings, ReloadableConfig(self.config), self._store(), Health(), member)
            stage._producer = Producer(self.broker)
            return stage

        return GroupMember(self.broker, "intake", self.settings.alerts_topic, make_stage)

    def _fold(self) -> GroupMember:
        store = self._store()
        monitor = RedisMonitor(ReloadableConfig(self.config), store, Health())
        member = GroupMember(
            self.broker, "fold", self.settings.keyed_topic,
            lambda member: Fold(self.settings, ReloadableConfig(self.config), store, monitor, Health(), member),
        )  # fmt: skip
        commit = member.commit

        async def recorded(offsets: Any) -> bool:
            for _, text in offsets.values():
                if not member.fenced and (closed := CommitMetadata.decode(text).closed_before) is not None:
                    self.commits_of_c.append((closed, len(self.storm_records())))
            return await commit(offsets)

        member.commit = recorded  # type: ignore[method-assign]
        return member

    def _closer(self) -> Any:
        closer: Any = Close(self.settings, ReloadableConfig(self.config), self._store(), Health())
        closer._producer = Producer(self.broker)
        return closer

    def _marks_keep_their_promise(self, topic: str, records: Mapping[int, Iterable[Pair]]) -> None:
        if topic != self.settings.keyed_topic:
            return
        committed = self.broker.commits[self.settings.consumer_group("intake")]
        for outgoing in records.values():
            for value in (value for _, value in outgoing if value and value[0] == MARKS):
                for partition, reached in decode_marks(value).progress.items():
                    kept = CommitMetadata.decode(committed[partition][1]).event_time
                    assert kept is not None, "marked without a commit"
                    assert kept >= reached, "a restart would continue from an earlier time than was marked"

    # Steps

    async def publish(self, random: Random) -> None:
        """Producers write a few records to a partition that may lag: on time, late, or in the future.

        Not further in the future than a slice: such an alert, delivered but not committed, is stamped again when it is
        delivered again; with more than two slices between, the two could lie on both sides of a rebuild's beginning.
        """
        partition = random.randrange(self.broker.partitions[self.settings.alerts_topic])
        for _ in range(random.randint(1, 6)):
            match random.randrange(12):
                case 0:
                    timestamp = self.clock.now - random.randint(0, 10 * self.windows.gap)
                case 1:
                    timestamp = self.clock.now + random.randint(0, self.windows.slice_length)
                case 2:
                    timestamp = self.clock.now - partition * self.windows.gap
                case _:
                    timestamp = self.clock.now - random.randint(0, self.windows.grace)
            self._write(random, partition, timestamp)

    def _write(self, random: Random, partition: int, timestamp: int) -> None:
        if random.random() < 0.03:
            self.poison += 1
            self.broker.append(self.settings.alerts_topic, partition, ProducerRecord(None, b'{"labels":1}'), timestamp)
        else:
            self.put(partition, timestamp, *(_alert(random) for _ in range(random.choice((1, 1, 1, 2, 5)))))

    def put(self, partition: int, timestamp: int, *alerts: dict[str, Any]) -> None:
        """One record with these alerts."""
        self.sent += len(alerts)
        value = msgspec.json.encode(alerts if len(alerts) > 1 else alerts[0])
        self.broker.append(self.settings.alerts_topic, partition, ProducerRecord(None, value), timestamp)

    async def wait(self, random: Random) -> None:
        """Time passes."""
        self.clock.now += random.choice(
            (0, 1, 250, 1_000, self.windows.gap // 2, self.windows.gap, self.windows.slice_length)
        )

    async def intake(self, random: Random) -> None:
        """An intake worker reads, sends, commits, marks; it may die or be refused in the middle."""
        at = random.randrange(2)
        self.broker.fault = self._fault(random)
        try:
            await self.intakes[at].poll(random.randint(1, 10))
        except Crash:
            self.intakes[at] = self._reborn(self.intakes[at], self._intake())
        self.broker.fault = None

    async def fold(self, random: Random) -> None:
        """A fold worker, or one that the group has given up, folds; the reply may be lost, or the worker."""
        workers = self.folds + self.zombies
        worker = random.choice(workers)
        if random.random() < 0.2:
            worker.stage._store.lose = random.choice((Crash(), Retry("no reply")))
        try:
            await worker.poll(random.randint(1, 25))
        except Crash:
            if worker in self.folds:
                self.folds[self.folds.index(worker)] = self._reborn(worker, self._fold())
            else:
                self.zombies.remove(worker)
        worker.stage._store.lose = None

    async def close(self, random: Random) -> None:
        """A closer runs once; it may die during its delivery, or be overtaken by another."""
        at = random.randrange(2)
        self.broker.fault = self._fault(random)
        if random.random() < 0.2:
            self.broker.interleaved = self._overtake(1 - at)
        try:
            await self._round(at)
        except Crash:
            self.closers[at] = self._closer()
        self.broker.fault = self.broker.interleaved = None

    def _overtake(self, other: int) -> Callable[[], Awaitable[None]]:
        async def other_round() -> None:
            fault, self.broker.fault = self.broker.fault, None
            await self.expire(Random(0))
            await self._round(other)
            self.broker.fault = fault

        return other_round

    async def _round(self, at: int) -> None:
        with suppress(StormfoldError):
            await self.closers[at].run_once()

    async def expire(self, _random: Random) -> None:
        """All leases expire."""
        keys = [key async for key in self.redis.scan_iter(match=f"{self.settings.redis_prefix}:*:l:*", count=1000)]
        if keys:
            await self.redis.delete(*keys)

    async def rebalance(self, random: Random) -> None:
        """Partitions change owners; a fold worker may not notice and continue as a zombie."""
        members, topic = random.choice(
            ((self.intakes, self.settings.alerts_topic), (self.folds, self.settings.keyed_topic))
        )
        if members is self.folds and random.random() < 0.5:
            zombie = members[0]
            zombie.fenced = True
            self.zombies = [zombie, *self.zombies][:2]
            members[0] = self._fold()
        owners = [random.randrange(2) for _ in range(self.broker.partitions[topic])]
        for at, member in enumerate(members):
            partitions = {p for p, owner in enumerate(owners) if owner == at}
            await member.assign(partitions, random.choice(("in time", "too late")))

    async def die(self, random: Random) -> None:
        """A worker is killed."""
        at = random.randrange(2)
        match random.randrange(3):
            case 0:
                self.intakes[at] = self._reborn(self.intakes[at], self._intake())
            case 1:
                self.folds[at] = self._reborn(self.folds[at], self._fold())
            case _:
                self.closers[at] = self._closer()

    async def reconfigure(self, random: Random) -> None:
        """A worker gets other windows, by a restart or a reload, as in a rolling change that may stop half way."""
        windows = random.choice(
            [structs.replace(w, grace=g) for w in (self.windows, *OTHERS) for g in (w.grace, 3 * w.grace, w.grace // 3)]
        )
        apply = random.choice((self.configured, self.reloaded))
        apply(windows, random.choice(((0,), (1,), (0, 1))))

    def configured(self, windows: Windows, workers: tuple[int, ...] = (0, 1)) -> None:
        """Stops these workers and starts them with other windows."""
        self.config = replace(self.config, windows=windows)
        for at in workers:
            self.intakes[at] = self._reborn(self.intakes[at], self._intake())
            self.folds[at] = self._reborn(self.folds[at], self._fold())
            self.closers[at] = self._closer()

    def reloaded(self, windows: Windows, workers: tuple[int, ...] = (0, 1), **changes: Any) -> None:
        """These workers reload the configuration, with other windows and other `changes`."""
        self.config = replace(self.config, windows=windows, **changes)
        for at in workers:
            for stage in (self.intakes[at].stage, self.folds[at].stage, self.closers[at]):
                before = stage._configuration.current
                at_windows = before.windows_at if before.config.windows == windows else self.clock.now
                stage._configuration.current = LoadedConfig(self.config, at_windows)

    def _reborn(self, dead: GroupMember, new: GroupMember) -> GroupMember:
        new.partitions = dead.partitions
        return new

    async def wipe(self, _random: Random) -> None:
        """Redis loses everything."""
        keys = [key async for key in self.redis.scan_iter(match=f"{self.settings.redis_prefix}:*", count=1000)]
        if keys:
            await self.redis.delete(*keys)

    async def save(self, _random: Random) -> None:
        """Redis writes a snapshot."""
        keys = [key async for key in self.redis.scan_iter(match=f"{self.settings.redis_prefix}:*", count=1000)]
        self.snapshot = {key: await self.redis.dump(key) for key in keys if b":l:" not in key}

    async def restore(self, random: Random) -> None:
        """Redis goes back to its snapshot."""
        if self.snapshot is None:
            return
        await self.wipe(random)
        for key, payload in self.snapshot.items():
            await self.redis.restore(key, 0, payload)

    @staticmethod
    def _fault(random: Random) -> Fault | None:
        if random.random() > 0.25:
            return None
        error = random.choice((Crash(), Retry("not delivered")))
        return Fault(random.randrange(2), random, error, acknowledged=random.random() < 0.3)

    # The end

    async def drain(self) -> None:
        """Without further faults everything is read, folded and closed, in bounded time."""
        for _ in range(200):
            self.clock.now += max(1_000, self.windows.gap // 2)
            while sum([await member.poll(500) for member in self.intakes]):
                pass
            while sum([await member.poll(500) for member in self.folds]) > 100:
                pass
            for at in range(2):
                await self._round(at)
            await self.expire(Random(0))
            if await self._drained():
                return
        raise AssertionError("not everything was closed after 200 rounds")

    async def _drained(self) -> bool:
        version = await self._store().version()
        read = self.broker.commits[self.settings.consumer_group("intake")]
        topic = self.settings.alerts_topic
        ends = {p: self.broker.logs[topic, p].end for p in range(self.broker.partitions[topic])}
        if version is None or {p: offset for p, (offset, _) in read.items()} != ends:
            return False
        clock = await self._store().clock(version)
        newest = max((alert.time for alert in self.keyed_alerts()), default=0)
        caught_up = clock.horizon is not None and clock.horizon - self.windows.grace > newest
        return caught_up and clock.open_groups == 0

    def storm_records(self) -> list[Aggregate]:
        """All published aggregates, in order."""
        records = self.broker.all(self.settings.storms_topic)
        return [from_manifest(msgspec.json.decode(record.value or b"")) for record in records]

    def keyed_alerts(self) -> list[plain.Alert]:
        """Alerts in the keyed topic: of each source position the first record."""
        found: dict[tuple[int, int, int], plain.Alert] = {}
        for record in self.broker.all(self.settings.keyed_topic):
            value = record.value or b""
            if value[0] == ALERT:
                _, flags, time, partition, offset, index = HEAD.unpack_from(value)
                found.setdefault((partition, offset, index), _decoded(value[HEAD.size :], time, flags))
        return list(found.values())

    def check(self) -> None:
        """Compares the aggregates with the plain model, counts all alerts, and checks every committed C."""
        expected = plain.storms(self.keyed_alerts(), self.windows)
        records = self.storm_records()
        published = {record.name: record for record in records}
        assert Counter(published) == Counter(expected)
        for name, storm in expected.items():
            assert published[name] == storm
        self.check_books()
        by_name = {name: [n for n, record in enumerate(records) if record.name == name] for name in expected}
        for closed, until in self.commits_of_c:
            for name, storm in expected.items():
                if self.windows.bucket(storm.first_seen) < closed:
                    assert by_name[name][0] < until, (closed, storm)

    def check_books(self) -> None:
        """Checks that every alert is in exactly one aggregate or dead letter."""
        published = {record.name: record for record in self.storm_records()}
        assert sum(record.alert_count for record in published.values()) == self.sent
        dead = {dict(record.headers)["stormfold-origin"] for record in self.broker.all(self.settings.alerts_dlq_topic)}
        assert len(dead) == self.poison


def _alert(random: Random) -> dict[str, Any]:
    labels = {
        "alertname": f"A{random.randrange(3)}",
        "pod": f"p{random.randrange(5)}",
        "namespace": "shop",
        "severity": random.choice(plain.SEVERITIES),
    }
    status = random.choice(("firing", "firing", "resolved"))
    return {"labels": labels, "annotations": {"summary": f"s{random.randrange(2)}"}, "status": status}


def _decoded(raw: bytes, time: int, flags: int) -> plain.Alert:
    body = msgspec.msgpack.decode(raw, type=Body)
    return plain.Alert(
        fingerprint=body.fingerprint,
        meta=msgspec.msgpack.decode(body.meta, type=GroupMeta),
        time=time,
        resolved=bool(flags & RESOLVED),
        late=bool(flags & LATE),
        not_qualified=bool(flags & NOT_QUALIFIED),
        rank=body.rank,
        resource=msgspec.msgpack.decode(body.resource, type=Resource) if body.resource else None,
        example=body.example,
    )
