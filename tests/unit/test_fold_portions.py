"""A poll of many rows is folded in portions, in the order of offsets and without loss."""

from itertools import chain
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from stormfold.stages.fold import portions


@given(sizes=st.dictionaries(st.integers(0, 50), st.integers(1, 4_000), min_size=1), count=st.integers(1, 40))
def test_portions_are_the_poll_and_of_about_one_size(sizes: dict[int, int], count: int) -> None:
    poll: Any = {partition: range(size) for partition, size in sizes.items()}
    found = list(portions(poll, count))
    for partition, records in poll.items():
        assert [*chain.from_iterable(portion.get(partition, ()) for portion in found)] == [*records]
    assert len(found) <= count
    for portion in found:
        assert portion and all(portion.values())
        # Rounding adds at most one record of each partition.
        assert sum(map(len, portion.values())) <= sum(sizes.values()) / count + len(sizes)
