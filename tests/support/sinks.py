"""Tests that every sink must pass. A subclass has the fixture `place`."""

from typing import Any, Protocol

import pytest

from stormfold.errors import DeadLetter
from stormfold.sinks import Outcome, Sink
from tests.support.storms import AWKWARD, manifest

HOUR = 3_600_000
NOW = 1_767_225_790_000


class Place(Protocol):
    """A sink, and direct access to the resources in it."""

    sink: Sink

    def stored(self) -> dict[str, dict[str, Any]]:
        """Manifests by name."""

    def annotate(self, name: str, key: str) -> None:
        """Annotates a resource, as a person does."""


async def delete_expired(sink: Sink, now: int, retention: int, limit: int, *namespaces: str) -> int:
    """Runs retention, by default in the namespace `storms`; returns how many deleted resources the sink reported."""
    reported: list[int] = []
    await sink.delete_expired(namespaces or ("storms",), now, retention, limit, reported.append)
    return sum(reported)


class SinkSuite:
    """The contract of `Sink`."""

    async def test_a_check_can_be_repeated_and_writes_nothing(self, place: Place) -> None:
        await place.sink.check("storms")
        await place.sink.check("storms")
        assert place.stored() == {}

    async def test_a_second_write_reports_exists_and_changes_nothing(self, place: Place) -> None:
        storm = manifest()
        assert await place.sink.write(storm, storm["metadata"]["name"]) is Outcome.CREATED
        again = manifest(alertCount=1)
        assert await place.sink.write(again, again["metadata"]["name"]) is Outcome.EXISTS
        (stored,) = place.stored().values()
        assert stored["spec"] == storm["spec"]
        assert stored["metadata"]["labels"] == storm["metadata"]["labels"]

    async def test_strings_are_stored_unchanged(self, place: Place) -> None:
        storm = manifest(
            affectedResources=[{"kind": "Pod", "name": text, "alerts": 1} for text in AWKWARD],
            groupLabels={text[:60] or "empty": text for text in AWKWARD},
        )
        assert await place.sink.write(storm, storm["metadata"]["name"]) is Outcome.CREATED
        (stored,) = place.stored().values()
        assert stored["spec"] == storm["spec"]

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("name", "../../etc/passwd"),
            ("name", "a/b"),
            ("name", ".hidden"),
            ("name", "Upper"),
            ("name", "a" * 254),
            ("name", ""),
            ("name", None),
            ("namespace", ".."),
            ("namespace", "a.b"),
            ("namespace", "a" * 64),
            ("namespace", "storms\n"),
            ("namespace", 7),
        ],
    )
    async def test_a_name_that_could_leave_the_folder_is_a_dead_letter(
        self, place: Place, field: str, value: Any
    ) -> None:
        storm = manifest()
        storm["metadata"][field] = value
        with pytest.raises(DeadLetter):
            await place.sink.write(storm, storm["metadata"]["name"])
        assert place.stored() == {}

    async def test_a_key_that_differs_from_the_name_is_a_dead_letter(self, place: Place) -> None:
        with pytest.raises(DeadLetter, match="key"):
            await place.sink.write(manifest(), "another")

    async def test_retention_deletes_by_age(self, place: Place) -> None:
        """Resources last seen before the retention are deleted; annotated ones and those of others are not."""
        now = NOW // 1000
        await self._write(place, old=now - 7201, older=now - 90000, kept=now - 90000, edge=now - 7200, fresh=now)
        foreign = manifest("foreign")
        del foreign["metadata"]["labels"]
        await place.sink.write(foreign, "foreign")
        place.annotate("kept", "stormfold.dev/keep")
        place.annotate("older", "stormfold.dev/keeper")
        assert await delete_expired(place.sink, NOW, 2 * HOUR, 100) == 2
        assert set(place.stored()) == {"kept", "edge", "fresh", "foreign"}

    async def test_retention_deletes_the_oldest_beyond_the_limit(self, place: Place) -> None:
        """Annotated resources do not count."""
        now = NOW // 1000
        await self._write(place, **{f"s{age}": now - age for age in range(6)})
        place.annotate("s5", "stormfold.dev/keep")
        assert await delete_expired(place.sink, NOW, HOUR, 3) == 2
        assert set(place.stored()) == {"s0", "s1", "s2", "s5"}
        assert await delete_expired(place.sink, NOW, HOUR, 3) == 0

    async def _write(self, place: Place, **last_seen: int) -> None:
        for name, seconds in last_seen.items():
            assert await place.sink.write(manifest(name, seconds), name) is Outcome.CREATED
