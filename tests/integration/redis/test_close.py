"""claim.lua and complete.lua: leases, and nothing deleted that was not published as it is."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace

import msgspec
import pytest
from redis.asyncio import Redis

from stormfold.errors import Retry
from stormfold.group import GroupMeta
from stormfold.redis.clock import Clock
from stormfold.redis.close import Completion, OpenBuckets
from stormfold.redis.errors import StaleStateVersion
from stormfold.redis.script import pack
from stormfold.redis.store import Store
from stormfold.window import Bucket, first_due
from tests.integration.model import plain
from tests.integration.redis.actions import (
    GROUP,
    NOW,
    OTHER,
    VERSION,
    WINDOWS,
    Folder,
    alert,
    contents,
    everything,
    start,
)
from tests.support.servers import until

LEASE = 60_000
END = NOW + 1_000_000
"""Long after everything."""


async def claim(
    store: Store, seen: int | None = None, token: str = "me", limit: int = 1_000, lease: int = LEASE, min_marks: int = 0
) -> tuple[Clock, list[OpenBuckets]]:
    return await store.claim(VERSION, seen, min_marks=min_marks, limit=limit, token=token, lease=lease)


def delete(claimed: OpenBuckets, buckets: Sequence[Bucket] | None = None, stay: int = 0, due: int = 0) -> Completion:
    return Completion(claimed.group, claimed.buckets if buckets is None else buckets, stay, due)


class TestClaim:
    """claim.lua moves the horizon and leases groups."""

    async def test_without_a_horizon_nothing_is_claimed(self, store: Store, redis: Redis) -> None:
        await start(store)
        await Folder(store)([alert(1, 3)])
        before = await everything(redis)
        assert await claim(store) == (Clock(None, 1, NOW), [])
        assert await everything(redis) == before

    async def test_the_horizon_never_goes_back(self, store: Store) -> None:
        """All calls return the latest horizon that any closer derived."""
        await start(store)
        for seen, expected in ((NOW, NOW), (NOW + 9, NOW + 9), (NOW + 5, NOW + 9), (None, NOW + 9)):
            clock, _ = await claim(store, seen)
            assert clock == Clock(expected, 0, None)
        assert await Folder(store)([]) == Clock(NOW + 9, 0, None)
        assert await store.clock(VERSION) == Clock(NOW + 9, 0, None)

    async def test_a_horizon_is_ignored_if_its_marks_are_gone(self, store: Store) -> None:
        """Redis went back since the horizon was derived."""
        await start(store)
        marks = {"0:0": NOW + 50, "1:0": NOW + 70, "h": NOW + 10, "n": NOW + 99, "b": NOW + 99}
        await store.redis.hset(store.keys.of(1).marks, mapping=marks)
        for seen, min_marks, expected in ((60, 2, 10), (50, 3, 10), (50, 2, 50), (70, 1, 70), (80, 1, 70)):
            clock, _ = await claim(store, NOW + seen, min_marks=min_marks)
            assert clock.horizon == NOW + expected

    async def test_a_group_is_claimed_when_the_watermark_reaches_its_due_time(self, store: Store) -> None:
        """The watermark, not the horizon."""
        await start(store)
        await Folder(store)([alert(1, 3)])
        due = NOW + 3 + WINDOWS.gap + 1
        assert (await claim(store, due + WINDOWS.grace - 1))[1] == []
        _, (only,) = await claim(store, due + WINDOWS.grace)
        assert only == OpenBuckets(alert(1, 3).group, GROUP, (Bucket(NOW, 1, NOW + 3, NOW + 3),))

    async def test_claimed_buckets_are_in_order_of_time(self, store: Store) -> None:
        await start(store)
        alerts = [alert(1, 25), alert(1, 3, resource="a", late=True), alert(2, 14, rank=0, resolved=True)]
        await Folder(store)(alerts)
        _, (only,) = await claim(store, END)
        assert [bucket.start - NOW for bucket in only.buckets] == [0, 10, 20]
        assert await contents(store) == plain.buckets(alerts, WINDOWS)

    async def test_a_group_is_leased_to_one_closer(self, store: Store) -> None:
        """A closer may claim again what it has not completed."""
        await start(store)
        await Folder(store)([alert(1, 3), alert(1, 4, meta=OTHER)])
        _, mine = await claim(store, END, "one", limit=1)
        _, others = await claim(store, END, "two")
        assert len(mine) == len(others) == 1
        assert mine[0].group != others[0].group
        assert (await claim(store, END, "three"))[1] == []
        assert (await claim(store, END, "one"))[1] == mine

    async def test_a_closer_whose_lease_ended_completes_nothing(self, store: Store, redis: Redis) -> None:
        """Only then another closer gets the group."""
        await start(store)
        await Folder(store)([alert(1, 3)])
        asked = time.monotonic()
        _, (mine,) = await claim(store, END, "one", lease=100)
        taken: list[OpenBuckets] = []

        async def again() -> bool:
            taken.extend((await claim(store, END, "two"))[1])
            return bool(taken)

        await until(again, 5, "the lease has ended")
        assert time.monotonic() - asked >= 0.1
        assert taken == [mine]
        before = await everything(redis)
        assert await store.complete(VERSION, "one", [delete(mine)]) == [False]
        assert await everything(redis) == before
        assert await store.complete(VERSION, "two", [delete(mine)]) == [True]

    async def test_every_due_group_is_claimed_once(self, store: Store) -> None:
        """With more groups than a page, and small claims."""
        await start(store)
        metas = [GroupMeta("default", {"n": str(n)}, "storms", False, 1, 1) for n in range(700)]
        await Folder(store)([alert(1, n % 9, meta=meta) for n, meta in enumerate(metas)])
        taken = []
        for closer in range(20):
            _, claimed = await claim(store, END, str(closer), limit=50)
            assert len(claimed) <= 50
            taken += [one.group for one in claimed]
        assert len(taken) == len(set(taken)) == 700

    async def test_claim_and_complete_refuse_another_state_version(self, store: Store, redis: Redis) -> None:
        """Also in an empty Redis."""
        await start(store)
        await Folder(store)([alert(1, 3)])
        before = await everything(redis)
        other = replace(VERSION, number=2)
        with pytest.raises(StaleStateVersion):
            await store.claim(other, END, min_marks=0, limit=1, token="t", lease=LEASE)
        with pytest.raises(StaleStateVersion):
            await store.complete(other, "t", [])
        assert await everything(redis) == before
        await redis.flushall()
        with pytest.raises(StaleStateVersion):
            await claim(store, END)
        with pytest.raises(StaleStateVersion):
            await store.complete(VERSION, "t", [])
        assert await everything(redis) == {}

    async def test_details_of_a_completed_bucket_raise_retry(self, store: Store) -> None:
        """A closer that slept past its lease must try again."""
        await start(store)
        await Folder(store)([alert(1, 3)])
        _, (mine,) = await claim(store, END)
        await store.complete(VERSION, "me", [delete(mine)])
        with pytest.raises(Retry):
            await store.details(VERSION, [(mine.group, bucket) for bucket in mine.buckets])

    async def test_details_of_a_changed_bucket_raise_retry(self, store: Store) -> None:
        """Redis lost alerts since the claim: half a segment must not be published."""
        await start(store)
        await Folder(store)([alert(1, 3), alert(2, 4)])
        _, (mine,) = await claim(store, END)
        (bucket,) = mine.buckets
        for other in (bucket._replace(alerts=3), bucket._replace(first=NOW), bucket._replace(last=NOW + 5)):
            with pytest.raises(Retry):
                await store.details(VERSION, [(mine.group, other)])
        assert len(await store.details(VERSION, [(mine.group, bucket)])) == 1


class TestComplete:
    """complete.lua deletes what was published, and nothing else."""

    async def test_nothing_is_left_of_a_completed_group(self, store: Store, redis: Redis) -> None:
        await start(store)
        fold = Folder(store)
        await fold([])
        await claim(store, END)
        before = await everything(redis)
        await redis.hdel(store.keys.of(1).marks, "h")
        await fold([alert(1, 3), alert(2, 14)])
        _, (mine,) = await claim(store, END)
        assert await store.complete(VERSION, "me", [delete(mine)]) == [True]
        after = await everything(redis)
        positions, sources = store.keys.of(1).positions.encode(), store.keys.of(1).source_positions.encode()
        assert after.pop(positions) != before.pop(positions)
        assert after.pop(sources)
        assert after == before

    async def test_a_completion_sent_again_does_nothing(self, store: Store, redis: Redis) -> None:
        await start(store)
        fold = Folder(store)
        await fold([alert(1, 3)])
        _, (mine,) = await claim(store, NOW + 40)
        assert await store.complete(VERSION, "me", [delete(mine)]) == [True]
        await fold([alert(1, 60)])
        before = await everything(redis)
        assert await store.complete(VERSION, "me", [delete(mine)]) == [False]
        assert await everything(redis) == before

    async def test_buckets_that_stay_are_due_as_requested(self, store: Store) -> None:
        """The group's first bucket is then the first that stays."""
        await start(store)
        await Folder(store)([alert(1, 3), alert(1, 60), alert(2, 69), alert(1, 90, meta=OTHER)])
        _, (mine,) = await claim(store, NOW + 60)
        due = NOW + 69 + WINDOWS.gap + 1
        assert await store.complete(VERSION, "me", [delete(mine, mine.buckets[:1], stay=1, due=due)]) == [True]
        clock, claimed = await claim(store, due + WINDOWS.grace - 1)
        assert (clock.first_open, clock.open_groups, claimed) == (NOW + 60, 2, [])
        _, (rest,) = await claim(store, due + WINDOWS.grace)
        assert rest.buckets == mine.buckets[1:]

    async def test_a_group_without_final_segments_is_due_later(self, store: Store) -> None:
        await start(store)
        await Folder(store)([alert(1, 3), alert(1, 12)])
        _, (mine,) = await claim(store, NOW + 3 + WINDOWS.gap + 1 + WINDOWS.grace)
        assert await store.complete(VERSION, "me", [delete(mine, [], stay=2, due=NOW + 23)]) == [True]
        assert (await claim(store, NOW + 22 + WINDOWS.grace))[1] == []
        _, (again,) = await claim(store, NOW + 23 + WINDOWS.grace)
        assert again == mine

    async def test_a_bucket_added_since_the_claim_makes_its_group_due_at_once(self, store: Store) -> None:
        await start(store)
        fold = Folder(store)
        await fold([alert(1, 3), alert(1, 90)])
        _, (mine,) = await claim(store, NOW + 20)
        await fold([alert(2, 40)])
        assert await store.complete(VERSION, "me", [delete(mine, mine.buckets[:1], stay=1, due=NOW + 101)]) == [True]
        clock, (again,) = await claim(store)
        assert clock.first_open == NOW + 40
        assert [bucket.start for bucket in again.buckets] == [NOW + 40, NOW + 90]

    async def test_a_group_is_never_due_too_late(self, store: Store) -> None:
        """More alerts, or an earlier bucket, do not put it off."""
        await start(store)
        fold = Folder(store)
        await fold([alert(1, 50), alert(1, 95)])
        await fold([alert(1, 23)])
        _, (mine,) = await claim(store, NOW + 23 + WINDOWS.gap + 1 + WINDOWS.grace)
        assert mine.buckets[0].start == NOW + 20
        assert first_due(NOW + 20, NOW + 23, WINDOWS) == NOW + 34

    @pytest.mark.parametrize("counts", [(2, 1), (1, 2), (0, 1)], ids=str)
    async def test_a_bucket_with_another_count_is_not_deleted(
        self, store: Store, redis: Redis, counts: tuple[int, int]
    ) -> None:
        """Nothing of its group is; the lease is released."""
        await start(store)
        await Folder(store)([alert(1, 3), alert(1, 12)])
        _, (mine,) = await claim(store, END)
        before = await everything(redis)
        wrong = [bucket._replace(alerts=count) for bucket, count in zip(mine.buckets, counts, strict=True)]
        assert await store.complete(VERSION, "me", [delete(mine, wrong)]) == [False]
        assert before.pop(f"{store.keys.of(1).lease_prefix}{mine.group}".encode()) == b"me"
        assert await everything(redis) == before
        assert (await claim(store))[1] == [mine]

    async def test_a_group_that_lost_a_bucket_is_not_deleted(self, store: Store) -> None:
        await start(store)
        await Folder(store)([alert(1, 3), alert(1, 12)])
        _, (mine,) = await claim(store, END)
        gone = Bucket(NOW + 50, 1, NOW + 50, NOW + 50)
        assert await store.complete(VERSION, "me", [delete(mine, [*mine.buckets, gone])]) == [False]
        assert len(await contents(store)) == 2

    async def test_completions_are_independent_and_answered_in_order(self, store: Store) -> None:
        await start(store)
        metas = [GroupMeta("default", {"n": str(n)}, "storms", False, 1, 1) for n in range(3)]
        await Folder(store)([alert(1, 3, meta=meta) for meta in metas])
        _, mine = await claim(store, END)
        wrong = delete(mine[1], [mine[1].buckets[0]._replace(alerts=9)])
        assert await store.complete(VERSION, "me", [delete(mine[0]), wrong, delete(mine[2])]) == [True, False, True]
        assert [one.group for one in await store.open_buckets(VERSION)] == [mine[1].group]

    async def test_thousands_of_buckets_and_members_are_deleted_by_one_call(self, store: Store, redis: Redis) -> None:
        await start(store)
        await Folder(store)([alert(n, n * 10) for n in range(2_000)] + [alert(n, 0) for n in range(9_000)])
        _, (mine,) = await claim(store, END)
        assert await store.complete(VERSION, "me", [delete(mine)]) == [True]
        assert not [key async for key in redis.scan_iter(match=f"{store.keys.of(1).base}[bg]:*")]

    async def test_concurrent_closers_complete_every_group_once(self, store: Store) -> None:
        await start(store)
        metas = [GroupMeta("default", {"n": str(n)}, "storms", False, 1, 1) for n in range(100)]
        await Folder(store)([alert(1, n % 9, meta=meta) for n, meta in enumerate(metas)])
        completed: list[str] = []

        async def close(token: str) -> None:
            while found := (await claim(store, END, token, limit=7))[1]:
                done = await store.complete(VERSION, token, [delete(one) for one in found])
                completed.extend(one.group for one, ok in zip(found, done, strict=True) if ok)

        await asyncio.gather(*(close(str(n)) for n in range(4)))
        assert len(completed) == len(set(completed)) == 100
        assert (await store.clock(VERSION)).open_groups == 0


async def test_keys_and_fields_have_the_documented_bytes(store: Store, redis: Redis) -> None:
    await start(store)
    one = alert(0x0102030405060708, 13, resource="api", late=True, rank=0, example=b'{"labels":{"a":"b"}}')
    batch_meta = msgspec.msgpack.encode(GROUP)
    fold = Folder(store)
    await fold([one, replace(one, resolved=True, time=NOW + 14, late=False)])
    await claim(store, NOW + 14 + 11 + 5, "token")
    root, group = b"stormfold:{0}:", one.group.encode()
    assert await everything(redis) == {
        root + b"epoch": {
            b"number4": b"1", b"gap": b"10", b"grace": b"5", b"slice": b"30", b"by": b"0",
            b"partitions": b"2",
        },
        root + b"1:pos": {b"0": b"1", b"0:t": str(NOW).encode(), b"1": b"0", b"1:t": b"-1"},
        root + b"1:org": {b"0:0": b"1:0"},
        root + b"1:mark": {b"h": str(NOW + 30).encode()},
        root + b"1:due": [(group, NOW + 14 + 11)],
        root + b"1:open": {str(NOW + 10).encode(): b"1"},
        root + b"1:g:" + group: len(batch_meta).to_bytes(4, "big")
            + batch_meta + pack([str(NOW + 10), b'{"labels":{"a":"b"}}']),
        root + b"1:b:" + group + b":" + str(NOW + 10).encode(): {
            b"a": (2).to_bytes(4, "big") + (NOW + 13).to_bytes(8, "big") + (NOW + 14).to_bytes(8, "big")
            + (1).to_bytes(4, "big") + b"\0" + b"\0" + (1).to_bytes(4, "big") + b"\0" + b"\0" + b"critical",
            bytes(range(1, 9)): bytes([2 * 8 + 3]) + (4).to_bytes(2, "big") + b"\x93\xa3Pod\xa4shop\xa3api",
        },
        root + b"1:l:" + group: b"token",
    }  # fmt: skip


async def test_an_ordinary_bucket_is_a_listpack(store: Store, redis: Redis) -> None:
    """Also with long names and a long example."""
    await start(store)
    name, example = "payments-api-gateway-7d9f6c5b4-x2x8q-{:03}", b'{"labels":{"alertname":"%s"}}' % (b"x" * 900)
    await Folder(store)([alert(n, 3, resource=name.format(n), example=example) for n in range(200)])
    encoding = await redis.object("ENCODING", f"{store.keys.of(1).bucket_prefix}{alert(1, 3).group}:{NOW}")
    assert encoding in (b"listpack", b"ziplist")
