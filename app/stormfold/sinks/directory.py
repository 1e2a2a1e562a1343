"""Storms as files: `<namespace>.<name>.yaml` in one flat folder, which `kubectl apply -f` takes as it is."""

import asyncio
import contextlib
import errno
import os
import re
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from stormfold.errors import ActionRequired, DeadLetter, Retry, StormfoldError
from stormfold.sinks import KEEP_ANNOTATION, LAST_SEEN_LABEL, Gone, Outcome, identity
from stormfold.sinks.retention import surplus

TOLD_EVERY = 100
"""Files that retention reads between two signs of life."""
LEFTOVER_SECONDS = 3600
"""Age at which a file of a write that a crash cut off is removed."""

_STOP = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP}
_MAX_FILE_NAME = 255
_TEMPORARY = ".stormfold-"
# Plain in YAML 1.1 and 1.2 alike. PyYAML writes 1e3, 0o17 and y bare, which kubectl reads as numbers and a boolean.
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9/._-]+")
_LAST_SEEN = re.compile(rf"{re.escape(LAST_SEEN_LABEL)}['\"]?:\s*['\"]?(\d+)".encode())
_KEEP = re.compile(rf"{re.escape(KEEP_ANNOTATION)}['\"]?\s*:".encode())


class _Dumper(yaml.CSafeDumper):
    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002
        return True


def _text(dumper: yaml.CSafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if _PLAIN.fullmatch(text) else '"')


_Dumper.add_representer(str, _text)


class _File(NamedTuple):
    path: Path
    namespace: str
    name: str
    last_seen: int


class DirectorySink:
    """One manifest per storm, written whole or not at all."""

    concurrency = 1

    def __init__(self, path: str | Path) -> None:
        self._folder = Path(path).expanduser()

    async def start(self) -> None:
        await asyncio.to_thread(self._start)

    async def write(self, manifest: dict[str, Any], key: str) -> Outcome:
        namespace, name = identity(manifest, key)
        file = f"{namespace}.{name}.yaml"
        if len(file) > _MAX_FILE_NAME:
            raise DeadLetter(f"file name of {len(file)} bytes is too long")
        return await asyncio.to_thread(self._write, self._folder / file, manifest)

    async def retain(self, now: int, retention: int, max_storms: int, gone: Gone) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.to_thread(
            self._retain, now, retention, max_storms, lambda count: loop.call_soon_threadsafe(gone, count)
        )

    async def close(self) -> None:
        pass

    def _start(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            for leftover in self._folder.glob(f"{_TEMPORARY}*"):
                # Another worker may be tidying up too.
                with contextlib.suppress(FileNotFoundError):
                    if leftover.stat().st_mtime < time.time() - LEFTOVER_SECONDS:
                        leftover.unlink()
            with tempfile.TemporaryFile(dir=self._folder, prefix=_TEMPORARY) as probe:
                probe.write(b"\n")
        except OSError as error:
            raise self._sorted(error) from error

    def _write(self, target: Path, manifest: dict[str, Any]) -> Outcome:
        try:
            content = dump(manifest).encode()
        except (yaml.YAMLError, UnicodeEncodeError) as error:
            raise DeadLetter(f"manifest cannot be written as YAML: {error}") from error
        try:
            if target.exists():
                return Outcome.EXISTS
            self._folder.mkdir(parents=True, exist_ok=True)
            self._replace(target, content)
        except OSError as error:
            raise self._sorted(error) from error
        return Outcome.CREATED

    def _replace(self, target: Path, content: bytes) -> None:
        descriptor, temporary = tempfile.mkstemp(dir=self._folder, prefix=_TEMPORARY)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                # A storm is settled by its file: it has to survive what the commit of its record survives.
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

    def _retain(self, now: int, retention: int, max_storms: int, gone: Gone) -> None:
        try:
            files: list[_File] = []
            for number, path in enumerate(self._folder.glob("*.yaml")):
                if found := _read(path):
                    files.append(found)
                if number % TOLD_EVERY == 0:
                    gone(0)
            for file in surplus(files, now, retention, max_storms):
                # Somebody may have asked to keep it meanwhile.
                if _read(file.path):
                    file.path.unlink(missing_ok=True)
                    gone(1)
        except OSError as error:
            raise self._sorted(error) from error

    def _sorted(self, error: OSError) -> StormfoldError:
        message = f"{self._folder}: {error.strerror or error}"
        if error.errno in _STOP:
            return ActionRequired(message, hint=f"Make {self._folder} a folder that stormfold may write to.")
        return Retry(message)


def dump(manifest: dict[str, Any]) -> str:
    """A manifest as YAML that every parser reads alike, whatever words its strings resemble."""
    return yaml.dump(
        manifest, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False, width=2**31 - 1
    )


def _read(path: Path) -> _File | None:
    """A storm's file, or None if it is to be kept, gone, or none that retention knows."""
    try:
        # Metadata come before the spec; what the spec quotes from alerts must not decide.
        head = path.read_bytes().partition(b"\nspec:")[0]
    except FileNotFoundError:
        return None
    seen = _LAST_SEEN.search(head)
    if seen is None or _KEEP.search(head):
        return None
    namespace, _, name = path.stem.partition(".")
    return _File(path, namespace, name, int(seen[1]))
