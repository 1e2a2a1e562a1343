"""Resources as files: `<namespace>.<name>.yaml` in one flat folder for each kind, for `kubectl apply -f`.

Storms are in the folder that the setting names, incidents in `incidents` below it.
"""

import asyncio
import contextlib
import errno
import os
import re
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from stormfold.errors import ActionRequired, DeadLetter, Retry
from stormfold.sinks import KEEP_ANNOTATION, LAST_SEEN_LABEL, OnDeleted, Outcome, validate_identity
from stormfold.sinks.kinds import STORMS, ResourceKind
from stormfold.sinks.retention import select_expired

FILES_PER_HEARTBEAT = 100
"""Files that retention reads between two calls of `on_deleted`."""
LEFTOVER_SECONDS = 3600
"""Age at which the temporary file of an interrupted write is removed."""

_PERMANENT = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP}
_MAX_FILE_NAME = 255
_TEMPORARY = ".stormfold-"
# Plain in YAML 1.1 and 1.2. PyYAML writes 1e3, 0o17 and y without quotes; kubectl reads numbers and a boolean.
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9/._-]+")
_LAST_SEEN = re.compile(rf"{re.escape(LAST_SEEN_LABEL)}['\"]?:\s*['\"]?(\d+)".encode())
_KEEP = re.compile(rf"{re.escape(KEEP_ANNOTATION)}['\"]?\s*:".encode())


class _Dumper(yaml.CSafeDumper):
    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002
        return True


def _represent_text(dumper: yaml.CSafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if _PLAIN.fullmatch(text) else '"')


_Dumper.add_representer(str, _represent_text)


class _File(NamedTuple):
    path: Path
    namespace: str
    name: str
    last_seen: int


class DirectorySink:
    """One manifest per resource, written completely or not at all."""

    concurrency = 1

    def __init__(self, path: str | Path, kind: ResourceKind = STORMS) -> None:
        self._root = Path(path).expanduser()
        self._folder = self._root / kind.folder

    async def check(self, namespace: str) -> None:  # noqa: ARG002
        await asyncio.to_thread(self._check)

    async def write(self, manifest: dict[str, Any], key: str) -> Outcome:
        namespace, name = validate_identity(manifest, key)
        file = f"{namespace}.{name}.yaml"
        if len(file) > _MAX_FILE_NAME:
            raise DeadLetter(f"file name of {len(file)} bytes is longer than {_MAX_FILE_NAME}")
        return await asyncio.to_thread(self._write, self._folder / file, manifest)

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

    def _write(self, target: Path, manifest: dict[str, Any]) -> Outcome:
        try:
            content = dump(manifest).encode()
        except (yaml.YAMLError, UnicodeEncodeError) as error:
            raise DeadLetter(f"manifest cannot be written as YAML: {error}") from error
        with self._translate_errors():
            if target.exists():
                return Outcome.EXISTS
            self._folder.mkdir(parents=True, exist_ok=True)
            self._replace(target, content)
        return Outcome.CREATED

    def _replace(self, target: Path, content: bytes) -> None:
        descriptor, temporary = tempfile.mkstemp(dir=self._folder, prefix=_TEMPORARY)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                # The record's offset is committed after this: the file must survive whatever the commit survives.
                os.fsync(file.fileno())
                os.fchmod(file.fileno(), 0o644)
            Path(temporary).replace(target)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()
            raise
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

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


def dump(manifest: dict[str, Any]) -> str:
    """A manifest as YAML in which every parser reads each string as a string."""
    return yaml.dump(
        manifest, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False, width=2**31 - 1
    )


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
