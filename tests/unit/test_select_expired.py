"""Which resources retention deletes."""

from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from stormfold.sinks.retention import select_expired


class Stored(NamedTuple):
    namespace: str
    name: str
    last_seen: int


@given(
    st.sets(st.builds(Stored, st.sampled_from("ab"), st.sampled_from("mnopqrst"), st.integers(0, 9))),
    st.integers(0, 12),
    st.integers(0, 12),
    st.integers(0, 5),
)
def test_the_newest_within_the_retention_stay_and_the_oldest_are_first(
    stored: set[Stored], now: int, retention: int, limit: int
) -> None:
    expired = select_expired(stored, now * 1000, retention * 1000, limit)
    staying = stored - set(expired)
    for namespace in "ab":
        recent = [s for s in stored if s.namespace == namespace and s.last_seen >= now - retention]
        newest = sorted(recent, key=lambda s: (s.last_seen, s.name))[max(0, len(recent) - limit) :]
        assert {s for s in staying if s.namespace == namespace} == set(newest)
    assert [s.last_seen for s in expired] == sorted(s.last_seen for s in expired)
    assert len(expired) == len(set(expired))
