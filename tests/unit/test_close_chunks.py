"""A closer publishes and completes its claim in chunks of groups."""

from hypothesis import given
from hypothesis import strategies as st

from stormfold.redis.close import OpenBuckets
from stormfold.stages.close import MAX_ALERTS_PER_CHUNK, _chunks
from stormfold.window import Bucket
from tests.integration.model.strategies import GROUPS


@given(st.lists(st.lists(st.integers(1, MAX_ALERTS_PER_CHUNK + 1), min_size=1, max_size=3), max_size=30))
def test_chunks_have_every_group_once_and_end_with_the_group_that_fills_them(alerts: list[list[int]]) -> None:
    groups = [
        OpenBuckets(str(number), GROUPS[0], tuple(Bucket(60_000 * at, count, 0, 0) for at, count in enumerate(counts)))
        for number, counts in enumerate(alerts)
    ]
    parts = list(_chunks(groups))
    assert [group for part in parts for group in part] == groups
    sizes = [[sum(bucket.alerts for bucket in group.buckets) for group in part] for part in parts]
    assert all(sum(part[:-1]) < MAX_ALERTS_PER_CHUNK for part in sizes)
    assert all(sum(part) >= MAX_ALERTS_PER_CHUNK for part in sizes[:-1])
