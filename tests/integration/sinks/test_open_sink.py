"""The choice of a sink."""

import pytest

from stormfold.errors import ActionRequired
from stormfold.settings import Settings
from stormfold.sinks import Outcome, open_sink
from stormfold.sinks.directory import DirectorySink
from tests.support.sinks import retained
from tests.support.storms import manifest


def test_directory() -> None:
    """`directory:PATH` is a directory, colons in its path included."""
    sink = open_sink("directory:a:b", Settings())
    assert isinstance(sink, DirectorySink)
    assert sink.concurrency == 1


def test_kubernetes() -> None:
    """`kubernetes` opens without a cluster: whether there is one, `start` says."""
    assert open_sink("kubernetes", Settings(), ["storms"]).concurrency == 8


async def test_none() -> None:
    """`none` takes storms and makes nothing of them."""
    sink = open_sink("none", Settings())
    await sink.start()
    assert await sink.write(manifest("x"), "x") is Outcome.EXISTS
    assert await retained(sink, 0, 0, 0) == 0
    await sink.close()


@pytest.mark.parametrize("spec", ["", "directory", "directory:", "kubernetes:", "s3:bucket", "None"])
def test_unknown(spec: str) -> None:
    """Anything else is refused with what there is."""
    with pytest.raises(ActionRequired) as stop:
        open_sink(spec, Settings())
    assert "directory:PATH" in str(stop.value.hint)
