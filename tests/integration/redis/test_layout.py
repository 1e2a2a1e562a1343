"""The strings of a bucket: any number of members is kept exactly, in parts of a bounded size."""

from collections.abc import Sequence
from dataclasses import replace
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from stormfold.errors import Retry
from stormfold.redis.close import Completion
from stormfold.redis.fold import Limits, Move
from stormfold.redis.layout import MAX_PREFIXES, PART, PART_MEMBERS, SUMMARY, WHOLE_MEMBERS
from stormfold.redis.store import Store
from stormfold.redis.versions import StateVersion
from stormfold.resource import Resource
from stormfold.window import Windows
from tests.integration.model import plain
from tests.integration.model.plain import Alert
from tests.integration.redis.actions import (
    GROUP,
    LIMITS,
    NOW,
    VERSION,
    WINDOWS,
    Folder,
    alert,
    contents,
    everything,
    full,
    merged,
    start,
)

IN_REDIS = settings(
    deadline=None, max_examples=12, print_blob=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
LONG = Windows(gap=200_000, grace=5, slice_length=600_000)
"""Windows under which the time of a member does not fit into two bytes."""
FIRST_COLONS = 5
"""Colons in the key of the first string of a bucket."""


def resource(random: Random) -> Resource | None:
    """A resource as real storms name them: many with a common beginning, some without any, some very long."""
    number = random.randrange(10_000)
    return random.choice(
        [
            None, Resource("Node", "", f"worker{number}"), Resource("Pod", f"shop-{number % 40}", "x" * 200),
            *[Resource("Pod", f"payments-{number % 3}", f"api-7d9f6c5b4-{number}")] * 5,
        ]
    )  # fmt: skip


def storm(random: Random, members: int, gap: int) -> list[Alert]:
    """Alerts of one bucket with this many fingerprints, of which few name several resources or repeat often."""
    result = []
    for _ in range(members):
        fingerprint, about = random.randbytes(8), resource(random)
        for _ in range(random.choice((1, 1, 2, 40))):
            now = resource(random) if random.random() < 0.02 else about
            time, resolved = NOW + random.randrange(gap), random.random() < 0.2
            result.append(Alert(fingerprint, GROUP, time, resolved, not_qualified=random.random() < 0.2, resource=now))
    random.shuffle(result)
    return result


async def bucket_strings(store: Store, redis: Redis) -> list[bytes]:
    """The keys of all strings of buckets."""
    return [key async for key in redis.scan_iter(match=f"{store.keys.of(1).bucket_prefix}*", count=1_000)]


async def fold_all(fold: Folder, alerts: Sequence[Alert], random: Random, limits: Limits = LIMITS) -> None:
    """Folds alerts in batches of any size."""
    left = list(alerts)
    while left:
        size = random.choice((1, 10, 100, 1_000))
        await fold(left[:size], limits)
        left = left[size:]


@IN_REDIS
@given(
    random=st.randoms(use_true_random=True),
    members=st.sampled_from((1, 20, WHOLE_MEMBERS, WHOLE_MEMBERS + 1, 2 * PART_MEMBERS + 1, 900)),
    windows=st.sampled_from((WINDOWS, LONG)),
)
async def test_members_in_any_number_of_parts_are_those_of_the_plain_model(
    store: Store, redis: Redis, random: Random, members: int, windows: Windows
) -> None:
    version = StateVersion(1, windows, 2, None)
    await redis.flushall()
    await start(store, version)
    alerts = storm(random, members, windows.gap)
    await fold_all(Folder(store, version), alerts, random)
    assert await contents(store, version) == plain.buckets(alerts, windows)


@pytest.mark.parametrize("members", [15, WHOLE_MEMBERS, WHOLE_MEMBERS + 1, 1_000, 4_000])
async def test_a_part_has_a_bounded_number_of_members(store: Store, redis: Redis, members: int) -> None:
    random = Random(members)
    await start(store)
    fold = Folder(store)
    await fold_all(
        fold,
        [
            Alert(random.randbytes(8), GROUP, NOW + n % 10, resource=Resource("Pod", "payments", f"api-7d9f6c5b4-{n}"))
            for n in range(members)
        ],
        random,
    )
    counts = []
    for key in await bucket_strings(store, redis):
        value = await redis.get(key)
        assert isinstance(value, bytes)
        count, wide = PART.unpack_from(value, SUMMARY.size if key.count(b":") == FIRST_COLONS else 0)
        assert not wide
        counts.append(count)
    assert sum(counts) == members
    assert max(counts) <= 1.4 * WHOLE_MEMBERS
    ((_, content),) = (await contents(store)).items()
    assert len(content.members) == members


WIDENING = {
    "count of a known member": [alert(3, 4)] * 17_000,
    "count of a new member": [alert(30, 4)] * 17_000,
    "time of a known member": [alert(3, 150_000)],
    "time of a new member": [alert(30, 150_000)],
    "texts of new members": [alert(number, 4, resource="x" * 40_000) for number in (30, 31)],
    "text of a known member": [replace(alert(3, 4), resource=Resource("Pod", "a", "x" * 70_000))],
}


@pytest.mark.parametrize("more", WIDENING.values(), ids=WIDENING.keys())
async def test_values_that_do_not_fit_into_two_bytes_are_kept(store: Store, redis: Redis, more: list[Alert]) -> None:
    version = StateVersion(1, LONG, 2, None)
    await start(store, version)
    fold, alerts = Folder(store, version), []
    for some, wanted in (
        ([alert(number, 3, resource=f"api-7d9f6c5b4-{number}") for number in range(5)], 0),
        (more, 1),
        ([alert(number, 5, resource=f"api-7d9f6c5b4-{number}") for number in range(9)], 1),
        ([alert(number, 3) for number in range(WHOLE_MEMBERS + 1)], None),
    ):
        alerts += some
        await fold(some)
        assert await contents(store, version) == plain.buckets(alerts, LONG)
        (first, *_) = sorted(await bucket_strings(store, redis))
        value = await redis.get(first)
        assert isinstance(value, bytes)
        _, wide = PART.unpack_from(value, SUMMARY.size)
        assert wanted in (None, wide)


async def test_the_lowest_resource_of_a_fingerprint_is_kept_whatever_their_lengths(store: Store) -> None:
    await start(store)
    fold, alerts = Folder(store), []
    names = ("api-7d9f6c5b4-b", "z", "api-7d9f6c5b4-a", "api-7d9f6c5b4-", "b", "a" * 70_000, "a" * 69_999, "a-b")
    for name in names:
        some = [alert(number, 3, resource=name) for number in range(0, 9, 2)]
        some += [alert(number, 3, resource=f"api-7d9f6c5b4-{number}") for number in range(9)]
        alerts += some
        await fold(some)
        assert await contents(store) == plain.buckets(alerts, WINDOWS)


async def test_more_prefixes_than_a_bucket_keeps(store: Store) -> None:
    await start(store)
    alerts = [alert(n, 3, resource=f"deployment-{n // 2}-{n}") for n in range(2 * MAX_PREFIXES + 100)]
    fold = Folder(store)
    for _ in range(2):
        await fold(alerts)
    assert await contents(store) == plain.buckets(alerts * 2, WINDOWS)


async def test_fingerprints_that_all_end_alike_are_kept(store: Store) -> None:
    """They share one part, which grows beyond what Lua can have on its stack."""
    await start(store)
    alerts = [alert(number << 16, 3, resource=f"api-7d9f6c5b4-{number}") for number in range(2_000)]
    fold = Folder(store)
    await fold(alerts)
    await fold(alerts[::2])
    assert await contents(store) == plain.buckets(alerts + alerts[::2], WINDOWS)


async def test_the_limit_of_fingerprints_holds_in_many_parts(store: Store) -> None:
    await start(store)
    fold, limits = Folder(store), Limits(max_fingerprints=300, max_groups=10)
    for begin in (0, 200, 250):
        await fold([alert(number, 3) for number in range(begin, begin + 200)], limits)
    (content,) = (await contents(store)).values()
    assert (len(content.members), content.alerts) == (300, 600)
    assert sum(member.alerts for member in content.members.values()) == 350


@pytest.mark.parametrize("members", [WHOLE_MEMBERS + 1, 20])
async def test_a_part_of_a_wrong_type_fails_the_call_before_it_writes(store: Store, redis: Redis, members: int) -> None:
    """A part that the bucket has, or gets by this call."""
    await start(store)
    await Folder(store)([alert(number, 3) for number in range(members)])
    key = f"{store.keys.of(1).bucket_key(alert(1, 3).group, NOW)}:1"
    await redis.delete(key)
    await redis.sadd(key, "taken")
    before = await everything(redis)
    with pytest.raises(Retry, match="WRONGTYPE"):
        await store.fold(
            VERSION, [Move(0, 1, 2, NOW)], merged([alert(n, 3) for n in range(WHOLE_MEMBERS + 100)]), LIMITS
        )
    assert await everything(redis) == before


async def test_a_full_redis_closes_a_bucket_of_many_strings(store: Store, redis: Redis) -> None:
    await start(store)
    await Folder(store)([alert(number, 3, resource=f"api-7d9f6c5b4-{number}") for number in range(1_000)])
    assert len(await bucket_strings(store, redis)) > 5
    async with full(redis):
        _, (mine,) = await store.claim(VERSION, NOW + 99, min_marks=0, limit=9, token="me", lease=1_000)
        (detail,) = await store.details(VERSION, [(mine.group, mine.buckets[0])])
        assert len(detail.members) == 1_000
        assert await store.complete(VERSION, "me", [Completion(mine.group, mine.buckets, 0, 0)]) == [True]
    assert await bucket_strings(store, redis) == []
