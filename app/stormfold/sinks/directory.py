"""Resources as files: `<namespace>.<name>.yaml` in one flat folder for each kind, for `kubectl apply -f`.

Storms are in the folder that the setting names, incidents in `incidents` below it.
"""

import asyncio
import contextlib
import errno
import os
import re
import secrets
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from stormfold.errors import ActionRequired, DeadLetter, Retry, StormfoldError
from stormfold.sinks import KEEP_ANNOTATION, LAST_SEEN_LABEL, OnDeleted, Outcome, validate_identity
from stormfold.sinks.block_yaml import dump
from stormfold.sinks.kinds import STORMS, ResourceKind
from stormfold.sinks.retention import select_expired

FILES_PER_HEARTBEAT = 100
"""Files that retention reads between two calls of `on_deleted`."""
LEFTOVER_SECONDS = 3600
"""Age at which the temporary file of an interrupted write is removed."""

_PERMANENT = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP}
_MAX_FILE_NAME = 255
_TEMPORARY = ".stormfold-"
_LAST_SEEN = re.compile(rf"{re.escape(LAST_SEEN_LABEL)}['\"]?:\s*['\"]?(\d+)".encode())
_KEEP = re.compile(rf"{re.escape(KEEP_ANNOTATION)}['\"]?\s*:".encode())


class _File(NamedTuple):
    path: Path
    namespace: str
    name: str
    last_seen: int


class _Write(NamedTuple):
    file: str
    manifest: dict[str, Any]
    outcome: asyncio.Future[Outcome]


class DirectorySink:
    """One manifest per resource, written completely or not at all.

    Writes that are requested during others are next, all of them together: a thread and the folder's flush to the disk
    cost more than a file.
    """

    concurrency = 32

    def __init__(self, path: str | Path, kind: ResourceKind = STORMS) -> None:
        self._root = Path(path).expanduser()
        self._folder = self._root / kind.folder
        self._requested: list[_Write] = []
        self._writing: asyncio.Task[None] | None = None

    async def check(self, namespace: str) -> None:  # noqa: ARG002
        await asyncio.to_thread(self._check)

    async def write(self, manifest: dict[str, Any], key: str) -> Outcome:
        namespace, name = validate_identity(manifest, key)
        file = f"{namespace}.{name}.yaml"
        if len(file) > _MAX_FILE_NAME:
            raise DeadLetter(f"file name of {len(file)} bytes is longer than {_MAX_FILE_NAME}")
        outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._requested.append(_Write(file, manifest, outcome))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_requested())
        return await outcome

    async def delete_expired(
        self,
        namespaces: Iterable[str],  # noqa: ARG002 - files of every namespace are here
        now: int,
        retention: int,
        limit: int,
        on_deleted: OnDeleted,
    ) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.to_thread(
            self._delete_expired, now, retention, limit, lambda count: loop.call_soon_threadsafe(on_deleted, count)
        )

    async def close(self) -> None:
        pass

    async def _write_requested(self) -> None:
        try:
            while self._requested:
                writes, self._requested = self._requested, []
                results: Iterable[Outcome | Exception]
                try:
                    results = await asyncio.to_thread(self._write_all, writes)
                except Exception as error:
                    results = [error] * len(writes)
                for write, result in zip(writes, results, strict=True):
                    # Otherwise nobody waits for it any more.
                    if not write.outcome.done():
                        if isinstance(result, Outcome):
                            write.outcome.set_result(result)
                        else:
                            write.outcome.set_exception(result)
        finally:
            self._writing = None

    def _check(self) -> None:
        with self._translate_errors():
            # The folder of another kind than storms appears with its first file.
            self._root.mkdir(parents=True, exist_ok=True)
            for leftover in self._folder.glob(f"{_TEMPORARY}*"):
                # Another worker may remove it at the same time.
                with contextlib.suppress(FileNotFoundError):
                    if leftover.stat().st_mtime < time.time() - LEFTOVER_SECONDS:
                        leftover.unlink()
            with tempfile.TemporaryFile(dir=self._root, prefix=_TEMPORARY) as probe:
                probe.write(b"\n")

    def _write_all(self, writes: Sequence[_Write]) -> list[Outcome | Exception]:
        """The outcome of each write, or its error."""
        results: list[Outcome | Exception] = []
        try:
            with self._translate_errors():
                self._folder.mkdir(parents=True, exist_ok=True)
                folder = os.open(self._folder, os.O_RDONLY)
                try:
                    results += [self._write(folder, write) for write in writes]
                    # Also for a file that exists: the worker that wrote it may not have flushed the folder yet.
                    if any(isinstance(result, Outcome) for result in results):
                        os.fsync(folder)
                finally:
                    os.close(folder)
        except StormfoldError as error:
            return [error if isinstance(result, Outcome) else result for result in results] or [error] * len(writes)
        return results

    def _write(self, folder: int, write: _Write) -> Outcome | Exception:
        """The outcome of a write into a folder, which is given by a file descriptor, or its error."""
        try:
            content = dump(write.manifest).encode()
        except (TypeError, UnicodeEncodeError, RecursionError) as error:
            return DeadLetter(f"manifest cannot be written as YAML: {error}")
        try:
            with self._translate_errors():
                if os.access(write.file, os.F_OK, dir_fd=folder):
                    return Outcome.EXISTS
                _create(folder, write.file, content)
        except StormfoldError as error:
            return error
        return Outcome.CREATED

    def _delete_expired(self, now: int, retention: int, limit: int, on_deleted: OnDeleted) -> None:
        with self._translate_errors():
            files: list[_File] = []
            for number, path in enumerate(self._folder.glob("*.yaml")):
                if found := _read(path):
                    files.append(found)
                if number % FILES_PER_HEARTBEAT == 0:
                    on_deleted(0)
            for file in select_expired(files, now, retention, limit):
                # A person may have annotated it since.
                if _read(file.path):
                    file.path.unlink(missing_ok=True)
                    on_deleted(1)

    @contextlib.contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            message = f"{self._folder}: {error.strerror or error}"
            if error.errno in _PERMANENT:
                hint = f"make {self._folder} a folder that stormfold may write to"
                raise ActionRequired(message, hint) from error
            raise Retry(message) from error


def _create(folder: int, file: str, content: bytes) -> None:
    """Writes a file into a folder, which is given by a file descriptor, completely or not at all."""
    temporary = f"{_TEMPORARY}{secrets.token_hex(8)}"
    try:
        with open(temporary, "xb", opener=partial(os.open, mode=0o644, dir_fd=folder)) as stream:
            stream.write(content)
            stream.flush()
            # The record's offset is committed after this: the file must survive whatever the commit survives.
            os.fsync(stream.fileno())
            os.fchmod(stream.fileno(), 0o644)
        os.rename(temporary, file, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=folder)
        raise


def _read(path: Path) -> _File | None:
    """A resource's file; None if it is annotated to be kept, does not exist, or has no label that retention needs."""
    try:
        # The metadata precede the spec. Text from alerts in the spec must not decide.
        head = path.read_bytes().partition(b"\nspec:")[0]
    except FileNotFoundError:
        return None
    seen = _LAST_SEEN.search(head)
    if seen is None or _KEEP.search(head):
        return None
    namespace, _, name = path.stem.partition(".")
    return _File(path, namespace, name, int(seen[1]))
