"""The configuration of a running worker: replaced as a whole when its file changes."""

import time
from dataclasses import dataclass, fields
from pathlib import Path
from stat import S_ISREG

from stormfold.config.loading import load
from stormfold.config.model import Config

FileState = tuple[int, int, int, int]
"""Device, inode, time of the last change (ns) and size."""


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """A configuration, and when its windows were loaded."""

    config: Config
    windows_at: int
    """When these windows were first loaded (Unix time, ms): of several workers, the latest one decides."""

    @classmethod
    def now(cls, config: Config) -> "LoadedConfig":
        """A configuration that is loaded now."""
        return cls(config, time.time_ns() // 1_000_000)


class ReloadableConfig:
    """The configuration that stages apply now. A stage takes `current` once for each batch.

    `path` is the file that it was read from. Without one, and if it is not a regular file (a pipe can be read only
    once), the configuration never changes.
    """

    def __init__(self, config: Config, path: Path | None = None) -> None:
        self.current = LoadedConfig.now(config)
        self.path = path if path is not None and path.is_file() else None
        self._applied: FileState | None = None
        """State of the file that was read last; None before, and if there was no file."""
        self._seen: FileState | None = None
        """State of the file at the last look."""

    def changed(self) -> bool:
        """Whether the file is another one than was read last, and the same as at the last look.

        Editors write a file in steps; a mounted ConfigMap is replaced by a link to another folder.
        """
        state, before = self._file_state(), self._seen
        self._seen = state
        return state == before and state != self._applied

    def reload(self) -> list[str]:
        """Reads the file and applies it; returns the fields of `Config` that changed.

        Raises `ConfigError` if it cannot be used. Then the configuration before stays, and the file does not count as
        changed until it is another one.
        """
        assert self.path is not None
        self._applied = self._seen = self._file_state()
        config, before = load(self.path), self.current
        windows_at = (
            before.windows_at if config.windows == before.config.windows else LoadedConfig.now(config).windows_at
        )
        changes = [
            field.name for field in fields(Config) if getattr(config, field.name) != getattr(before.config, field.name)
        ]
        if changes:
            self.current = LoadedConfig(config, windows_at)
        return changes

    def _file_state(self) -> FileState | None:
        assert self.path is not None
        try:
            found = self.path.stat()
        except OSError:
            return None
        return (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size) if S_ISREG(found.st_mode) else None
