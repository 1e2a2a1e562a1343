"""Which storms have to go."""

from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from stormfold.sinks.retention import surplus


class Storm(NamedTuple):
    namespace: str
    name: str
    last_seen: int


@given(
    st.sets(st.builds(Storm, st.sampled_from("ab"), st.sampled_from("mnopqrst"), st.integers(0, 9))),
    st.integers(0, 12),
    st.integers(0, 12),
    st.integers(0, 5),
)
def test_surplus(storms: set[Storm], now: int, retention: int, most: int) -> None:
    """In each namespace the newest `most` of those within the retention stay; the others go, oldest first."""
    going = surplus(storms, now * 1000, retention * 1000, most)
    staying = storms - set(going)
    for namespace in "ab":
        recent = [s for s in storms if s.namespace == namespace and s.last_seen >= now - retention]
        newest = sorted(recent, key=lambda s: (s.last_seen, s.name))[max(0, len(recent) - most) :]
        assert {s for s in staying if s.namespace == namespace} == set(newest)
    assert [s.last_seen for s in going] == sorted(s.last_seen for s in going)
    assert len(going) == len(set(going))
