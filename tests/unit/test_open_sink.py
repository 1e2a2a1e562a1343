"""The choice of a sink."""

import pytest

from stormfold.errors import ActionRequired
from stormfold.settings import Settings
from stormfold.sinks import Outcome, open_sink
from stormfold.sinks.directory import DirectorySink
from tests.support.sinks import delete_expired
from tests.support.storms import manifest


def test_the_path_of_a_directory_may_have_colons() -> None:
    sink = open_sink("directory:a:b", Settings())
    assert isinstance(sink, DirectorySink)
    assert sink.concurrency == 32


def test_kubernetes_opens_without_a_cluster() -> None:
    assert open_sink("kubernetes", Settings()).concurrency == 8


async def test_none_creates_nothing() -> None:
    sink = open_sink("none", Settings())
    await sink.check("storms")
    assert await sink.write(manifest("x"), "x") is Outcome.EXISTS
    assert await delete_expired(sink, 0, 0, 0) == 0
    await sink.close()


@pytest.mark.parametrize("spec", ["", "directory", "directory:", "kubernetes:", "s3:bucket", "None"])
def test_an_unknown_sink_is_refused_with_the_choices(spec: str) -> None:
    with pytest.raises(ActionRequired) as stop:
        open_sink(spec, Settings())
    assert "directory:PATH" in str(stop.value.hint)
