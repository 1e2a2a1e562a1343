"""The hashes of a bucket: any number of members is kept exactly, in hashes of the compact encoding."""

from collections.abc import Sequence
from random import Random
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from stormfold.errors import Retry
from stormfold.redis import layout
from stormfold.redis.close import Completion
from stormfold.redis.fold import Limits, Move
from stormfold.redis.layout import MAX_PREFIXES, PREFIXES_PART, WHOLE_FIELDS
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


async def bucket_hashes(store: Store, redis: Redis) -> list[bytes]:
    """The keys of all hashes of buckets."""
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
    members=st.sampled_from((1, 20, WHOLE_FIELDS, WHOLE_FIELDS + 1, 130, 300)),
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


@pytest.mark.parametrize("members", [15, WHOLE_FIELDS, WHOLE_FIELDS + 1, 128, 129, 1_000, 4_000])
async def test_every_hash_of_a_bucket_is_compact(store: Store, redis: Redis, members: int) -> None:
    """Under the default limits of the server: at most 128 fields, each of at most 64 bytes."""
    await redis.config_set("hash-max-ziplist-entries", 128)
    await redis.config_set("hash-max-ziplist-value", 64)
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
    for key in await bucket_hashes(store, redis):
        assert await redis.object("ENCODING", key) in (b"listpack", b"ziplist")
    ((_, content),) = (await contents(store)).items()
    assert len(content.members) == members


async def test_fingerprints_that_all_end_alike_are_kept(store: Store) -> None:
    """They share one part, which is then not compact."""
    await start(store)
    alerts = [alert(number << 16, 3, resource=f"api-7d9f6c5b4-{number}") for number in range(500)]
    await Folder(store)(alerts)
    assert await contents(store) == plain.buckets(alerts, WINDOWS)


async def test_the_limit_of_fingerprints_holds_in_many_parts(store: Store) -> None:
    await start(store)
    fold, limits = Folder(store), Limits(max_fingerprints=300, max_groups=10)
    for begin in (0, 200, 250):
        await fold([alert(number, 3) for number in range(begin, begin + 200)], limits)
    (content,) = (await contents(store)).values()
    assert (len(content.members), content.alerts) == (300, 600)
    assert sum(member.alerts for member in content.members.values()) == 350


@pytest.mark.parametrize("members", [100, 20, 150])
@pytest.mark.parametrize("part", [1, PREFIXES_PART])
async def test_a_part_of_a_wrong_type_fails_the_call_before_it_writes(
    store: Store, redis: Redis, members: int, part: object
) -> None:
    """A part that the bucket has, or gets by this call."""
    await start(store)
    await Folder(store)([alert(number, 3) for number in range(members)])
    key = f"{store.keys.of(1).bucket_key(alert(1, 3).group, NOW)}:{part}"
    await redis.delete(key)
    await redis.sadd(key, "taken")
    before = await everything(redis)
    with pytest.raises(Retry, match="WRONGTYPE"):
        await store.fold(VERSION, [Move(0, 1, 2, NOW)], merged([alert(n, 3) for n in range(200)]), LIMITS)
    assert await everything(redis) == before


@IN_REDIS
@given(random=st.randoms(use_true_random=True), prefixes=st.sampled_from((1, 5, 100, MAX_PREFIXES + 40)))
async def test_any_number_of_prefixes_is_kept(store: Store, redis: Redis, random: Random, prefixes: int) -> None:
    await redis.flushall()
    await start(store)
    alerts = [
        alert(number, random.randrange(10), resource=f"deployment-{random.randrange(prefixes)}-{number % 7}")
        for number in [*range(300)] * 2
    ]
    await fold_all(Folder(store), alerts, random)
    assert await contents(store) == plain.buckets(alerts, WINDOWS)


async def test_two_prefixes_with_one_hash_are_both_kept(
    store: Store, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one call and in two, in a bucket of one part and of several."""
    monkeypatch.setattr(layout, "blake2b", lambda _, digest_size: SimpleNamespace(digest=lambda: bytes(digest_size)))
    layout._split.cache_clear()
    for members in (20, 200):
        for size in (members, members // 2):
            await redis.flushall()
            await start(store)
            fold = Folder(store)
            alerts = [alert(number, 3, resource=f"deployment-{number % 3}-{number}") for number in range(members)]
            for begin in range(0, members, size):
                await fold(alerts[begin : begin + size])
            await fold(alerts)
            assert await contents(store) == plain.buckets([*alerts, *alerts], WINDOWS)
    layout._split.cache_clear()


async def test_a_full_redis_closes_a_bucket_of_many_hashes(store: Store, redis: Redis) -> None:
    await start(store)
    await Folder(store)([alert(number, 3, resource=f"api-7d9f6c5b4-{number}") for number in range(1_000)])
    assert len(await bucket_hashes(store, redis)) > 10
    async with full(redis):
        _, (mine,) = await store.claim(VERSION, NOW + 99, min_marks=0, limit=9, token="me", lease=60_000)
        (detail,) = await store.details(VERSION, [(mine.group, mine.buckets[0])])
        assert len(detail.members) == 1_000
        assert await store.complete(VERSION, "me", [Completion(mine.group, mine.buckets, 0, 0)]) == [True]
    assert await bucket_hashes(store, redis) == []
