"""fold.lua: compare and set, all or nothing, and the same result in any order."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from random import Random

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from stormfold.errors import Retry
from stormfold.group import GroupMeta, group_id, overflow_meta
from stormfold.merge import LatePolicy, Merger
from stormfold.redis.clock import Clock, MarksSnapshot
from stormfold.redis.close import Completion
from stormfold.redis.errors import BehindWatermark, PositionConflict, StaleStateVersion
from stormfold.redis.fold import Limits, Move
from stormfold.redis.store import Store
from stormfold.redis.versions import StateVersion
from tests.integration.model import plain, strategies
from tests.integration.model.logs import Sent, log
from tests.integration.model.plain import Alert
from tests.integration.redis.actions import (
    GROUP,
    LIMITS,
    NOW,
    OTHER,
    THIRD,
    VERSION,
    WINDOWS,
    Folder,
    alert,
    contents,
    everything,
    held,
    merged,
    start,
)

IN_REDIS = settings(
    deadline=None, max_examples=40, print_blob=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


async def test_a_batch_is_in_redis_after_it_was_folded(store: Store) -> None:
    await start(store)
    alerts = [alert(1, 3, resource="a"), alert(1, 5, resolved=True), alert(2, 14), alert(2, 4, meta=OTHER, rank=0)]
    clock = await Folder(store)(alerts)
    assert clock == Clock(horizon=None, open_groups=2, first_open=NOW)
    assert await contents(store) == plain.buckets(alerts, WINDOWS)
    assert await store.clock(VERSION) == clock
    state = await store.load()
    assert state is not None
    assert state.positions[0] == (1, NOW)
    assert state.source_positions == {(0, 0): (3, 0)}


class TestCompareAndSet:
    """Positions decide whether a call does anything."""

    async def test_a_call_sent_again_succeeds_and_changes_nothing(self, store: Store, redis: Redis) -> None:
        await start(store)
        batch = merged([alert(1, 3)])
        first = await store.fold(VERSION, [Move(0, 0, 5, NOW)], batch, LIMITS)
        assert first == (await store.clock(VERSION), 0)
        before = await everything(redis)
        assert await store.fold(VERSION, [Move(0, 0, 5, NOW)], batch, LIMITS) == first
        assert await everything(redis) == before

    async def test_a_call_starts_where_the_last_one_ended(self, store: Store) -> None:
        """Not at the offset of its first record: logs have holes."""
        await start(store)
        await store.fold(VERSION, [Move(0, 0, 5, NOW)], merged([alert(1, 3)]), LIMITS)
        await store.fold(VERSION, [Move(0, 5, 9, NOW + 7)], merged([]), LIMITS)
        state = await store.load()
        assert state is not None
        assert state.positions == {0: (9, NOW + 7), 1: (0, -1)}

    @pytest.mark.parametrize(
        "moves",
        [
            [Move(0, 0, 5, NOW)],
            [Move(0, 3, 5, NOW)],
            [Move(0, 5, 9, NOW)],
            [Move(0, 4, 9, NOW), Move(1, 1, 3, NOW)],
            [Move(0, 0, 4, NOW), Move(1, 0, 2, NOW)],
            [Move(0, 2, 4, NOW), Move(1, 0, 2, NOW)],
            [Move(2, 0, 4, NOW)],
            [Move(0, 4, 9, NOW), Move(2, 0, 4, NOW)],
        ],
        ids=str,
    )
    async def test_a_call_with_other_positions_is_refused(self, store: Store, redis: Redis, moves: list[Move]) -> None:
        """Positions must be all starts or all ends."""
        await start(store)
        await store.fold(VERSION, [Move(0, 0, 4, NOW)], merged([alert(1, 3)]), LIMITS)
        before = await everything(redis)
        with pytest.raises(PositionConflict):
            await store.fold(VERSION, moves, merged([alert(2, 3)]), LIMITS)
        assert await everything(redis) == before

    async def test_a_call_over_several_partitions_is_one_step(self, store: Store, redis: Redis) -> None:
        """Sent again it succeeds, until one of its partitions has moved on."""
        await start(store)
        moves = [Move(0, 0, 4, NOW), Move(1, 0, 2, NOW)]
        await store.fold(VERSION, moves, merged([alert(1, 3)]), LIMITS)
        before = await everything(redis)
        await store.fold(VERSION, moves, merged([alert(1, 3)]), LIMITS)
        assert await everything(redis) == before
        await store.fold(VERSION, [Move(1, 2, 3, NOW)], merged([]), LIMITS)
        with pytest.raises(PositionConflict):
            await store.fold(VERSION, moves, merged([alert(1, 3)]), LIMITS)

    @pytest.mark.parametrize("number", [0, 2, 10, 11])
    async def test_a_call_for_another_state_version_is_refused(self, store: Store, redis: Redis, number: int) -> None:
        """Also if its number only begins with the same digits."""
        await start(store)
        before = await everything(redis)
        with pytest.raises(StaleStateVersion):
            await store.fold(replace(VERSION, number=number), [Move(0, 0, 1, NOW)], merged([alert(1, 3)]), LIMITS)
        assert await everything(redis) == before

    async def test_an_empty_redis_refuses_fold(self, store: Store, redis: Redis) -> None:
        with pytest.raises(StaleStateVersion):
            await store.fold(VERSION, [Move(0, 0, 1, NOW)], merged([alert(1, 3)]), LIMITS)
        assert await everything(redis) == {}

    async def test_a_row_before_the_watermark_is_refused_with_the_horizon(self, store: Store, redis: Redis) -> None:
        await start(store)
        await store.claim(VERSION, NOW + 20, min_marks=0, limit=1, token="t", lease=1000)
        before = await everything(redis)
        rows = merged([alert(1, 16), alert(2, 14)])
        with pytest.raises(BehindWatermark) as behind:
            await store.fold(VERSION, [Move(0, 0, 1, NOW)], rows, LIMITS)
        assert behind.value.horizon == NOW + 20
        assert await everything(redis) == before
        await store.fold(VERSION, [Move(0, 0, 1, NOW)], merged([alert(1, 16), alert(2, 15)]), LIMITS)

    async def test_alerts_before_the_watermark_are_counted_at_the_horizon_as_late(self, store: Store) -> None:
        await start(store)
        await store.claim(VERSION, NOW + 20, min_marks=0, limit=1, token="t", lease=1000)
        sent = log([Sent(alert(1, 3), (0, 0), (0, 0)), Sent(alert(1, 17), (0, 0), (1, 0))])
        batch = Merger(WINDOWS).merge(sent, {}, LatePolicy(None, NOW + 15, NOW + 20))
        await store.fold(VERSION, [Move(0, 0, 2, NOW)], batch, LIMITS)
        wanted = [alert(1, 20, late=True), alert(1, 17)]
        assert await contents(store) == plain.buckets(wanted, WINDOWS)

    async def test_of_two_workers_at_the_same_position_one_folds(self, store: Store) -> None:
        await start(store)
        folded = 0
        for end, batch in ((1, [alert(1, 3)]), (2, [alert(1, 3), alert(2, 3)])):
            try:
                await store.fold(VERSION, [Move(0, 0, end, NOW)], merged(batch), LIMITS)
                folded += len(batch)
            except PositionConflict:
                pass
        assert sum(one.alerts for one in (await contents(store)).values()) == folded == 1


KEYS = [
    "positions",
    "source_positions",
    "marks",
    "due",
    "open_since",
    "state version",
    "group",
    "bucket",
    "new group",
    "new bucket",
]


@pytest.mark.parametrize("which", KEYS)
async def test_a_key_of_a_wrong_type_fails_the_call_before_it_writes(store: Store, redis: Redis, which: str) -> None:
    await start(store)
    fold = Folder(store)
    await fold([alert(1, 3)])
    names = store.keys.of(1)
    fresh = alert(9, 25, meta=THIRD)
    key = {
        "state version": store.keys.state_version,
        "group": names.group_prefix + alert(1, 3).group,
        "bucket": f"{names.bucket_prefix}{alert(1, 3).group}:{NOW}",
        "new group": names.group_prefix + fresh.group,
        "new bucket": f"{names.bucket_prefix}{fresh.group}:{NOW + 20}",
    }.get(which) or getattr(names, which)
    await redis.delete(key)
    await redis.sadd(key, "taken")
    before = await everything(redis)
    with pytest.raises(Retry, match="WRONGTYPE"):
        await store.fold(VERSION, [Move(0, 1, 2, NOW)], merged([alert(2, 13), alert(1, 3), fresh]), LIMITS)
    assert await everything(redis) == before


@IN_REDIS
@given(data=st.data())
async def test_the_result_does_not_depend_on_order_or_batches(store: Store, redis: Redis, data: st.DataObject) -> None:
    """The buckets are those of the plain model."""
    alerts = data.draw(st.lists(strategies.alerts(st.integers(NOW, NOW + 60)), max_size=40))
    random: Random = data.draw(st.randoms(use_true_random=False))
    await redis.flushall()
    await start(store)
    fold = Folder(store)
    random.shuffle(alerts)
    left = list(alerts)
    while left:
        size = random.randint(1, 10)
        await fold(left[:size])
        left = left[size:]
    assert await contents(store) == plain.buckets(alerts, WINDOWS)
    await _assert_indexes(store, alerts)


async def _assert_indexes(store: Store, alerts: Sequence[Alert]) -> None:
    names = store.keys.of(1)
    opened = {int(start): int(count) for start, count in (await store.redis.hgetall(names.open_since)).items()}
    due = dict(await store.redis.zrange(names.due, 0, -1, withscores=True))
    begins = []
    for group in {one.group for one in alerts}:
        mine = [one for one in alerts if one.group == group]
        begins.append(min(one.time for one in mine) // WINDOWS.gap * WINDOWS.gap)
        first = plain.parts(mine, WINDOWS, lambda one: one.time)[0]
        assert min(one.time for one in mine) < due.pop(group.encode()) <= first.due
    assert opened == Counter(begins)
    assert due == {}


@pytest.mark.parametrize(
    "texts", [(b"{}", b"{} "), (b"{ }", b"{}"), (b'{"a":"b"}', b'{"a":"\xc3\xa9"}'), (b"{}", b"{}")]
)
async def test_of_two_first_alerts_the_lower_example_counts(
    store: Store, redis: Redis, texts: tuple[bytes, bytes]
) -> None:
    """Compared by bytes, in Redis as in Python."""
    for order in (texts, texts[::-1]):
        await redis.flushall()
        await start(store)
        fold = Folder(store)
        for text in order:
            await fold([alert(1, 3, example=text)])
        (only,) = (await contents(store)).values()
        assert only.example == min(texts)
        assert [row.example for row in merged([alert(1, 3, example=text) for text in order]).rows] == [min(texts)]


async def test_a_row_may_have_more_members_than_lua_can_unpack_at_once(store: Store) -> None:
    await start(store)
    fold = Folder(store)
    alerts = [alert(n, 3, resource=f"pod-{n % 50}") for n in range(9_000)]
    await fold(alerts)
    again = [alert(n, 4, resolved=True) for n in range(8_500, 9_500)]
    await fold(again)
    assert await contents(store) == plain.buckets([*alerts, *again], WINDOWS)


async def test_a_call_writes_each_group_once(store: Store, redis: Redis) -> None:
    """However many buckets it opens: a group is one value."""
    await start(store)
    fold = Folder(store)
    await fold([alert(1, 3), alert(1, 3, meta=OTHER)])
    before = (await redis.info("commandstats"))["cmdstat_set"]["calls"]
    alerts = [alert(1, 3 + 10 * number, meta=meta) for number in range(100) for meta in (GROUP, OTHER)]
    await fold(alerts)
    assert (await redis.info("commandstats"))["cmdstat_set"]["calls"] == before + 2
    assert await contents(store) == plain.buckets([alert(1, 3), alert(1, 3, meta=OTHER), *alerts], WINDOWS)


@pytest.mark.parametrize("more", ["c40100", "d40000", "81c001"], ids=["bin", "ext", "nil as a key"])
async def test_meta_that_scripts_could_not_decode_is_folded_and_claimed(store: Store, more: str) -> None:
    """A later version may add a field, and another program may write to the keyed topic."""
    await start(store)
    for number, meta in enumerate((merged([alert(1, 3)]).rows[0].meta, _with_field(GROUP, bytes.fromhex(more)))):
        batch = merged([alert(1, 3)])
        batch.rows[0].meta = meta
        await store.fold(VERSION, [Move(0, number, number + 1, NOW)], batch, LIMITS)
        await store.fold(VERSION, [Move(1, number, number + 1, NOW)], merged([alert(2, 13 + 10 * number)]), LIMITS)
    _, (mine,) = await store.claim(VERSION, NOW + 99, min_marks=0, limit=9, token="me", lease=60_000)
    assert sum(bucket.alerts for bucket in mine.buckets) == 4
    await store.complete(VERSION, "me", [Completion(mine.group, mine.buckets, 0, 0)])
    assert await store.open_buckets(VERSION) == []


def _with_field(meta: GroupMeta, value: bytes) -> bytes:
    """The meta in msgpack with one more field."""
    packed = msgspec.msgpack.encode(meta)
    return bytes([packed[0] + 1]) + packed[1:] + value


async def test_a_call_moves_hundreds_of_partitions(store: Store) -> None:
    version = StateVersion(1, WINDOWS, 600, None)
    await start(store, version)
    await store.fold(version, [Move(p, 0, p + 1, NOW) for p in range(600)], merged([alert(1, 3)]), LIMITS)
    state = await store.load()
    assert state is not None
    assert state.positions == {p: (p + 1, NOW) for p in range(600)}


class TestMarks:
    """Marks of the progress of event time."""

    async def test_the_highest_mark_of_each_partition_pair_counts(self, store: Store) -> None:
        """Folding marks does not move the horizon."""
        await start(store)
        for at, (partitions, marks) in enumerate([(2, {(0, 0): 5, (0, 1): 9}), (3, {(0, 0): 4, (0, 2): 1}), (1, {})]):
            batch = merged([])
            batch.marks, batch.alerts_partitions = dict(marks), partitions
            await store.fold(VERSION, [Move(0, at, at + 1, NOW)], batch, LIMITS)
        assert await store.marks(VERSION) == MarksSnapshot({(0, 0): 5, (0, 1): 9, (0, 2): 1}, 3, 2)
        assert (await store.clock(VERSION)).horizon is None

    async def test_marks_up_to_the_year_9999_are_exact(self, store: Store) -> None:
        await start(store)
        batch = merged([])
        batch.marks = {(0, 0): NOW + 1, (1, 11): 253_402_300_799_999}
        await store.fold(VERSION, [Move(0, 0, 1, NOW)], batch, LIMITS)
        assert (await store.marks(VERSION)).marks == batch.marks

    async def test_without_marks_nothing_is_known(self, store: Store) -> None:
        await start(store)
        assert await store.marks(VERSION) == MarksSnapshot({}, 0, 0)


class TestLimits:
    """Limits reduce detail, never counts."""

    async def test_more_fingerprints_than_the_limit_are_counted_but_not_members(self, store: Store) -> None:
        """The bucket is truncated; its members are still updated."""
        await start(store)
        fold, limits = Folder(store), Limits(max_fingerprints=3, max_groups=10)
        await fold([alert(n, 3) for n in range(3)], limits)
        (whole,) = await held(store)
        assert not whole.truncated
        await fold([alert(n, 4) for n in range(6)], limits)
        await fold([alert(0, 5)], limits)
        (only,) = (await contents(store)).values()
        assert only.alerts == 10
        assert {fp: member.alerts for fp, member in only.members.items()} == {
            n.to_bytes(8, "big"): 3 if n == 0 else 2 for n in range(3)
        }
        (detail,) = await held(store)
        assert detail.truncated

    async def test_the_limit_of_fingerprints_holds_within_a_row(self, store: Store) -> None:
        """Also across the chunks in which it is written."""
        await start(store)
        await Folder(store)([alert(n, 3) for n in range(1_200)], Limits(1_000, 10))
        (detail,) = await held(store)
        assert (len(detail.members), detail.truncated) == (1_000, True)

    async def test_a_bucket_with_as_many_fingerprints_as_allowed_is_not_truncated(self, store: Store) -> None:
        await start(store)
        fold, limits = Folder(store), Limits(3, 10)
        await fold([alert(n, 3) for n in range(3)], limits)
        await fold([alert(n, 3) for n in range(3)], limits)
        (detail,) = await held(store)
        assert (len(detail.members), detail.truncated) == (3, False)

    async def test_without_track_new_fingerprints_are_counted_but_not_members(self, store: Store) -> None:
        await start(store)
        fold = Folder(store)
        await fold([alert(1, 3)])
        await fold([alert(1, 3), alert(2, 3), alert(2, 13)], replace(LIMITS, track_new=False))
        await fold([alert(3, 3)])
        counts = {start: (c.alerts, len(c.members)) for (_, start), c in (await contents(store)).items()}
        assert counts == {NOW: (4, 2), NOW + 10: (1, 0)}

    async def test_of_alerts_without_a_member_the_qualifying_ones_are_summed(self, store: Store) -> None:
        """The severity keeps its name, whichever way the buckets of two polls meet."""
        await start(store)
        fold, nothing_new = Folder(store), replace(LIMITS, track_new=False)
        await fold([alert(1, 3, rank=1), alert(1, 4, rank=1)])
        await fold([alert(2, 3, resolved=True), alert(3, 3, not_qualified=True), alert(4, 3), alert(5, 4)], nothing_new)
        await fold([alert(6, 5, not_qualified=True, rank=0), alert(7, 5, rank=2), alert(1, 6)], nothing_new)
        (detail,) = await held(store)
        assert (len(detail.members), detail.unlisted, detail.truncated) == (1, 3, True)
        assert (detail.rank, detail.severity) == (0, plain.SEVERITIES[0])

    async def test_more_groups_than_the_limit_fold_into_overflow_groups(self, store: Store) -> None:
        """One for each route and class; open groups still take their own alerts, and no alert is lost."""
        await start(store)
        fold, limits = Folder(store), Limits(10, 2)
        metas = [replace_labels(meta, n) for n in range(4) for meta in (GROUP, OTHER)]
        await fold([alert(n, 3, meta=meta) for n, meta in enumerate(metas)], limits)
        assert fold.overflowed == 6
        await fold([alert(n, 14, meta=meta) for n, meta in enumerate(metas)], limits)
        assert fold.overflowed == 12
        found = await contents(store)
        spill = {group_id(meta.route, overflow_meta(meta).labels, meta.silenced): meta for meta in (GROUP, OTHER)}
        kept = [group_id(meta.route, meta.labels, meta.silenced) for meta in metas[:2]]
        assert {group for group, _ in found} == {*kept, *spill}
        for start_ in (NOW, NOW + 10):
            assert [found[group, start_].alerts for group in kept] == [1, 1]
            assert [found[group, start_].alerts for group in spill] == [3, 3]
        claimed = {one.group: one.meta for one in await store.open_buckets(VERSION)}
        assert {group: claimed[group] for group in spill} == {g: overflow_meta(m) for g, m in spill.items()}

    async def test_two_buckets_of_a_new_group_count_as_one_group(self, store: Store) -> None:
        await start(store)
        fold, metas = Folder(store), [replace_labels(GROUP, n) for n in range(2)]
        await fold([alert(1, time, meta=meta) for meta in metas for time in (3, 14, 25)], Limits(10, 2))
        assert fold.overflowed == 0
        assert len(await store.open_buckets(VERSION)) == 2
        assert not {g for g, _ in await contents(store)} & {group_id("default", overflow_meta(GROUP).labels, False)}

    async def test_overflowed_alerts_are_reported_once(self, store: Store) -> None:
        """Alerts are counted, not rows."""
        await start(store)
        moves, limits = [Move(0, 0, 1, NOW)], Limits(10, 1)
        batch = merged([alert(1, 3), *(alert(n, 3, meta=OTHER) for n in range(3))])
        assert [await store.fold(VERSION, moves, batch, limits) for _ in range(2)] == [
            (clock := await store.clock(VERSION), 3),
            (clock, 0),
        ]


def replace_labels(meta: GroupMeta, number: int) -> GroupMeta:
    """A group of the same route and class."""
    return GroupMeta(
        meta.route, {"n": str(number)}, meta.namespace, meta.silenced, meta.storm_alerts, meta.storm_resources
    )


async def test_redis_may_lose_its_script_cache_between_any_two_calls(store: Store, redis: Redis) -> None:
    await redis.script_flush()
    await start(store)
    fold = Folder(store)
    for step in range(3):
        await redis.script_flush()
        await fold([alert(step, 3)])
        await redis.script_flush()
        _, claimed = await store.claim(VERSION, NOW + step, min_marks=0, limit=1, token="t", lease=1000)
        assert claimed == []
        await redis.script_flush()
        assert await store.complete(VERSION, "t", []) == []
    (only,) = (await contents(store)).values()
    assert only.alerts == 3
