"""The directory sink."""

import asyncio
import errno
import os
import resource
from pathlib import Path
from typing import Any

import pytest
import yaml

from stormfold.errors import ActionRequired, DeadLetter, Retry
from stormfold.sinks import Outcome, Sink
from stormfold.sinks.directory import LEFTOVER_SECONDS, DirectorySink
from tests.support.sinks import SinkSuite, retained
from tests.support.storms import manifest


class Folder:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.sink: Sink = DirectorySink(path)

    def stored(self) -> dict[str, dict[str, Any]]:
        files = {file: yaml.safe_load(file.read_text()) for file in self.path.iterdir()}
        for file, stored in files.items():
            assert file.name == f"storms.{stored['metadata']['name']}.yaml"
        return {stored["metadata"]["name"]: stored for stored in files.values()}

    def annotate(self, name: str, key: str) -> None:
        file = self.path / f"storms.{name}.yaml"
        storm = yaml.safe_load(file.read_text())
        storm["metadata"]["annotations"] = {key: "true"}
        file.write_text(yaml.safe_dump(storm))


@pytest.fixture
def place(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path / "storms")
    folder.path.mkdir()
    return folder


class TestDirectory(SinkSuite):
    """The directory keeps the contract."""

    async def test_makes_its_folder(self, tmp_path: Path) -> None:
        """The folder need not be there, at the start or later."""
        sink = DirectorySink(tmp_path / "a" / "b")
        await sink.start()
        (tmp_path / "a" / "b").rmdir()
        assert await sink.write(manifest("x"), "x") is Outcome.CREATED
        assert [file.name for file in (tmp_path / "a" / "b").iterdir()] == ["storms.x.yaml"]

    async def test_readable(self, place: Folder) -> None:
        """A manifest opens with what it is, and its lines are not broken or abbreviated."""
        shared = {"kind": "Node", "name": "node-7", "alerts": 3}
        await place.sink.write(manifest("x", pattern="p " * 500, affectedResources=[shared, shared]), "x")
        text = (place.path / "storms.x.yaml").read_text()
        assert text.startswith("apiVersion: stormfold.dev/v1alpha1\nkind: AlertStorm\nmetadata:\n  name: ")
        assert "p " * 500 in text
        assert "&" not in text

    async def test_spec_does_not_decide_retention(self, place: Folder) -> None:
        """Words from alerts that look like the label or the annotation neither keep nor delete a storm."""
        words = {"stormfold.dev/keep": "yes", "stormfold.dev/last-seen": "1"}
        await place.sink.write(manifest("old", 1000, groupLabels=words), "old")
        await place.sink.write(manifest("new", 9000, groupLabels=words), "new")
        assert await retained(place.sink, 9_000_000, 1_000_000, 100) == 1
        assert set(place.stored()) == {"new"}

    async def test_cut_off_write_leaves_no_manifest(self, place: Folder) -> None:
        """A full disk in mid-write: try again later; neither half a manifest nor a temporary file stays."""
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
        try:
            with pytest.raises(Retry):
                await place.sink.write(manifest("x"), "x")
            assert list(place.path.iterdir()) == []
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert await place.sink.write(manifest("x"), "x") is Outcome.CREATED

    async def test_leftovers_go(self, place: Folder) -> None:
        """What a killed worker left is removed at the next start, but not what another one is just writing."""
        for name, age in (("old", LEFTOVER_SECONDS + 60), ("new", 0)):
            file = place.path / f".stormfold-{name}"
            file.touch()
            os.utime(file, (file.stat().st_mtime - age,) * 2)
        await place.sink.start()
        assert [file.name for file in place.path.iterdir()] == [".stormfold-new"]

    async def test_file_in_the_way(self, tmp_path: Path) -> None:
        """A path that can never be a folder is a matter for people."""
        (tmp_path / "file").write_text("")
        for path in (tmp_path / "file", tmp_path / "file" / "below"):
            with pytest.raises(ActionRequired) as stop:
                await DirectorySink(path).start()
            assert str(path) in str(stop.value.hint)
            with pytest.raises(ActionRequired):
                await DirectorySink(path).write(manifest("x"), "x")

    @pytest.mark.parametrize(
        ("number", "expected"),
        [
            (errno.ENOSPC, Retry),
            (errno.EDQUOT, Retry),
            (errno.EIO, Retry),
            (errno.EMFILE, Retry),
            (errno.EACCES, ActionRequired),
            (errno.EROFS, ActionRequired),
            (errno.EPERM, ActionRequired),
        ],
    )
    async def test_sorted_errors(
        self, place: Folder, monkeypatch: pytest.MonkeyPatch, number: int, expected: type[Exception]
    ) -> None:
        """Errors of the file system are sorted by what helps."""

        def refuse(_: int) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "fsync", refuse)
        with pytest.raises(expected):
            await place.sink.write(manifest("x"), "x")
        assert list(place.path.iterdir()) == []

    async def test_too_long_a_file_name(self, place: Folder) -> None:
        """A valid name that no file system takes never fits."""
        name = "a" * 253
        with pytest.raises(DeadLetter, match="file name"):
            await place.sink.write(manifest(name), name)

    async def test_writers_side_by_side(self, place: Folder) -> None:
        """Two workers with the same storms leave each one whole."""
        other = DirectorySink(place.path)
        names = [f"s{number}" for number in range(20)]
        await asyncio.gather(*(sink.write(manifest(name), name) for name in names for sink in (place.sink, other)))
        assert place.stored() == {name: manifest(name) for name in names}
