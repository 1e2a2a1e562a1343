"""The order in which incidents are published."""

from hypothesis import given, settings
from hypothesis import strategies as st

from stormfold.chain import FormingIncident
from stormfold.incident_part import Part
from stormfold.stages.correlate import MAX_INCIDENTS_PER_CHUNK, chunks
from tests.support.incidents import aggregate

scopes = st.lists(st.integers(0, 150), max_size=400)


@settings(deadline=None, max_examples=50, print_blob=True)
@given(scopes)
def test_incidents_of_a_scope_are_published_one_after_the_other(made: list[int]) -> None:
    """A later one ends all before it: if it alone were written, the storms of the earlier would be in none."""
    final = []
    for number, scope in enumerate(made):
        part = Part.of(aggregate(f"storm-{number}", str(scope), "Storm", number, number))
        assert part is not None
        final.append(FormingIncident([part], None, number))
    found = list(chunks(final))
    for chunk in found:
        assert 0 < len({forming.scope.key for forming in chunk}) == len(chunk) <= MAX_INCIDENTS_PER_CHUNK
    published = [forming for chunk in found for forming in chunk]
    assert sorted(forming.first for forming in published) == [forming.first for forming in final]
    for scope in set(made):
        times = [forming.first for forming in published if forming.scope.labels == {"cluster": str(scope)}]
        assert times == sorted(times)
