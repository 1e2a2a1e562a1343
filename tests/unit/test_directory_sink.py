"""The directory sink."""

import asyncio
import errno
import os
import resource
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml

from stormfold.errors import ActionRequired, DeadLetter, Retry
from stormfold.sinks import Outcome, Sink
from stormfold.sinks.directory import LEFTOVER_SECONDS, DirectorySink
from tests.support.sinks import SinkSuite, delete_expired
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
    """The contract of `Sink`, and what is special to files."""

    async def test_a_missing_folder_is_created_by_a_check_and_later(self, tmp_path: Path) -> None:
        sink = DirectorySink(tmp_path / "a" / "b")
        await sink.check("storms")
        (tmp_path / "a" / "b").rmdir()
        assert await sink.write(manifest("x"), "x") is Outcome.CREATED
        assert [file.name for file in (tmp_path / "a" / "b").iterdir()] == ["storms.x.yaml"]

    async def test_manifests_have_no_anchors_and_no_broken_lines(self, place: Folder) -> None:
        shared = {"kind": "Node", "name": "node-7", "alerts": 3}
        await place.sink.write(manifest("x", pattern="p " * 500, affectedResources=[shared, shared]), "x")
        text = (place.path / "storms.x.yaml").read_text()
        assert text.startswith("apiVersion: stormfold.dev/v1alpha1\nkind: AlertStorm\nmetadata:\n  name: ")
        assert "p " * 500 in text
        assert "&" not in text

    async def test_text_of_alerts_does_not_decide_retention(self, place: Folder) -> None:
        """Label values that look like the label or the annotation of retention have no effect."""
        words = {"stormfold.dev/keep": "yes", "stormfold.dev/last-seen": "1"}
        await place.sink.write(manifest("old", 1000, groupLabels=words), "old")
        await place.sink.write(manifest("new", 9000, groupLabels=words), "new")
        assert await delete_expired(place.sink, 9_000_000, 1_000_000, 100) == 1
        assert set(place.stored()) == {"new"}

    async def test_an_interrupted_write_is_retried_and_leaves_no_file(self, place: Folder) -> None:
        """The disk is full in the middle of a write."""
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
        try:
            with pytest.raises(Retry):
                await place.sink.write(manifest("x"), "x")
            assert list(place.path.iterdir()) == []
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert await place.sink.write(manifest("x"), "x") is Outcome.CREATED

    async def test_a_check_removes_old_temporary_files(self, place: Folder) -> None:
        """A file that another worker writes at the moment stays."""
        for name, age in (("old", LEFTOVER_SECONDS + 60), ("new", 0)):
            file = place.path / f".stormfold-{name}"
            file.touch()
            os.utime(file, (file.stat().st_mtime - age,) * 2)
        await place.sink.check("storms")
        assert [file.name for file in place.path.iterdir()] == [".stormfold-new"]

    async def test_a_path_that_cannot_be_a_folder_requires_action(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        for path in (tmp_path / "file", tmp_path / "file" / "below"):
            with pytest.raises(ActionRequired) as stop:
                await DirectorySink(path).check("storms")
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
    async def test_file_system_errors_are_sorted_into_retry_and_action_required(
        self, place: Folder, monkeypatch: pytest.MonkeyPatch, number: int, expected: type[Exception]
    ) -> None:

        def refuse(_: int) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "fsync", refuse)
        with pytest.raises(expected):
            await place.sink.write(manifest("x"), "x")
        assert list(place.path.iterdir()) == []

    async def test_writes_that_are_requested_during_another_are_flushed_together(
        self, place: Folder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        flushed: list[int] = []
        flush = os.fsync

        def counted(file: int) -> None:
            flushed.append(file)
            flush(file)

        monkeypatch.setattr(os, "fsync", counted)
        names = [f"s{number}" for number in range(20)]
        outcomes = await asyncio.gather(*(place.sink.write(manifest(name), name) for name in names))
        assert set(outcomes) == {Outcome.CREATED} and set(place.stored()) == set(names)
        assert len(names) < len(flushed) <= len(names) + 2

    async def test_each_of_several_writes_has_its_own_outcome(self, place: Folder) -> None:
        await place.sink.write(manifest("old"), "old")
        deep: dict[str, Any] = {}
        for _ in range(2000):
            deep = {"a": deep}
        found = await asyncio.gather(
            place.sink.write(manifest("old"), "old"),
            place.sink.write(manifest("deep", groupLabels=deep), "deep"),
            place.sink.write(manifest("surrogate", pattern="\ud800"), "surrogate"),
            place.sink.write(manifest("new"), "new"),
            return_exceptions=True,
        )
        assert [one if isinstance(one, Outcome) else type(one) for one in found] == [
            Outcome.EXISTS, DeadLetter, DeadLetter, Outcome.CREATED,
        ]  # fmt: skip
        assert set(place.stored()) == {"old", "new"}

    async def test_no_write_succeeds_if_the_folder_cannot_be_flushed(
        self, place: Folder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A file that exists may have been written by a worker that has not flushed the folder yet."""
        await place.sink.write(manifest("old"), "old")
        flush = os.fsync

        def refuse_folders(file: int) -> None:
            if stat.S_ISDIR(os.fstat(file).st_mode):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            flush(file)

        monkeypatch.setattr(os, "fsync", refuse_folders)
        for name in ("old", "new"):
            with pytest.raises(Retry):
                await place.sink.write(manifest(name), name)

    async def test_a_write_that_nobody_waits_for_any_more_holds_up_no_other(self, place: Folder) -> None:
        first = asyncio.create_task(place.sink.write(manifest("a"), "a"))
        await asyncio.sleep(0)
        first.cancel()
        assert await place.sink.write(manifest("b"), "b") is Outcome.CREATED
        assert set(place.stored()) == {"a", "b"}

    async def test_a_failure_of_the_thread_is_the_outcome_of_every_write(
        self, place: Folder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def fail(*_: Any) -> None:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(asyncio, "to_thread", fail)
        writes = [place.sink.write(manifest(name), name) for name in "ab"]
        found = await asyncio.wait_for(asyncio.gather(*writes, return_exceptions=True), 20)
        assert [str(one) for one in found] == ["can't start new thread"] * 2
        monkeypatch.undo()
        assert await place.sink.write(manifest("a"), "a") is Outcome.CREATED

    async def test_a_name_too_long_for_a_file_is_a_dead_letter(self, place: Folder) -> None:
        name = "a" * 253
        with pytest.raises(DeadLetter, match="file name"):
            await place.sink.write(manifest(name), name)

    async def test_two_workers_writing_the_same_resources_leave_each_complete(self, place: Folder) -> None:
        other = DirectorySink(place.path)
        names = [f"s{number}" for number in range(20)]
        await asyncio.gather(*(sink.write(manifest(name), name) for name in names for sink in (place.sink, other)))
        assert place.stored() == {name: manifest(name) for name in names}
