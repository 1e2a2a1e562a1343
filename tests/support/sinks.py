"""What every sink that stores storms must do; a subclass brings the fixture `place`."""

from typing import Any, Protocol

import pytest

from stormfold.errors import DeadLetter
from stormfold.sinks import Outcome, Sink
from tests.support.storms import AWKWARD, manifest

HOUR = 3_600_000
NOW = 1_767_225_790_000


class Place(Protocol):
    """A sink and, past it, what it holds."""

    sink: Sink

    def stored(self) -> dict[str, dict[str, Any]]:
        """Manifests by name."""

    def annotate(self, name: str, key: str) -> None:
        """As a person does, with any value."""


async def retained(sink: Sink, now: int, retention: int, max_storms: int) -> int:
    """Lets the sink delete; returns how many storms went, as it told."""
    told: list[int] = []
    await sink.retain(now, retention, max_storms, told.append)
    return sum(told)


class SinkSuite:
    """The contract of `Sink`."""

    async def test_start_writes_nothing(self, place: Place) -> None:
        """A successful check leaves no trace, and can be repeated."""
        await place.sink.start()
        await place.sink.start()
        assert place.stored() == {}

    async def test_created_then_exists(self, place: Place) -> None:
        """The first write creates the storm as given; a repeat says that it is there and changes nothing."""
        storm = manifest()
        assert await place.sink.write(storm, storm["metadata"]["name"]) is Outcome.CREATED
        again = manifest(alertCount=1)
        assert await place.sink.write(again, again["metadata"]["name"]) is Outcome.EXISTS
        (stored,) = place.stored().values()
        assert stored["spec"] == storm["spec"]
        assert stored["metadata"]["labels"] == storm["metadata"]["labels"]

    async def test_awkward_strings(self, place: Place) -> None:
        """Whatever words alerts hold, the storm says the same words."""
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
    async def test_bad_identity(self, place: Place, field: str, value: Any) -> None:
        """A name that could leave the namespace or folder never fits."""
        storm = manifest()
        storm["metadata"][field] = value
        with pytest.raises(DeadLetter):
            await place.sink.write(storm, storm["metadata"]["name"])
        assert place.stored() == {}

    async def test_key_must_be_the_name(self, place: Place) -> None:
        """A record whose key and manifest disagree was not made by a closer."""
        with pytest.raises(DeadLetter, match="key"):
            await place.sink.write(manifest(), "another")

    async def test_retention_by_age(self, place: Place) -> None:
        """Storms last seen before the retention go; those within it, kept ones and foreign ones stay."""
        now = NOW // 1000
        await self._write(place, old=now - 7201, older=now - 90000, kept=now - 90000, edge=now - 7200, fresh=now)
        foreign = manifest("foreign")
        del foreign["metadata"]["labels"]
        await place.sink.write(foreign, "foreign")
        place.annotate("kept", "stormfold.dev/keep")
        place.annotate("older", "stormfold.dev/keeper")
        assert await retained(place.sink, NOW, 2 * HOUR, 100) == 2
        assert set(place.stored()) == {"kept", "edge", "fresh", "foreign"}

    async def test_retention_by_number(self, place: Place) -> None:
        """Beyond the number the oldest go; kept ones do not use up the number."""
        now = NOW // 1000
        await self._write(place, **{f"s{age}": now - age for age in range(6)})
        place.annotate("s5", "stormfold.dev/keep")
        assert await retained(place.sink, NOW, HOUR, 3) == 2
        assert set(place.stored()) == {"s0", "s1", "s2", "s5"}
        assert await retained(place.sink, NOW, HOUR, 3) == 0

    async def _write(self, place: Place, **last_seen: int) -> None:
        for name, seconds in last_seen.items():
            assert await place.sink.write(manifest(name, seconds), name) is Outcome.CREATED
