"""Who may send: a bearer token, or user and password, from a file that is read again when it changes."""

import hmac
from base64 import b64encode
from pathlib import Path

import structlog

from stormfold.errors import ActionRequired

log = structlog.get_logger(__name__)


class Credentials:
    """Accepted values of the `Authorization` header; without files every request is accepted.

    Each line of the token file is a token, each line of the user file `user:password`. Several lines allow a change
    without downtime. Raises `ActionRequired` for a file that cannot be read or has no line.
    """

    def __init__(self, token_file: Path | None, users_file: Path | None) -> None:
        self._files = [(path, scheme) for path, scheme in ((token_file, "Bearer"), (users_file, "Basic")) if path]
        self._seen = self._state()
        self._accepted = self._load()

    def accepts(self, header: str | None) -> bool:
        """Whether a request with this `Authorization` header may send."""
        if not self._files:
            return True
        self._reload()
        # aiohttp decodes bytes that are not UTF-8 by `surrogateescape`.
        given = (header or "").encode(errors="surrogateescape")
        # Every value is compared, so that the time does not depend on which one matches.
        return sum(hmac.compare_digest(given, value) for value in self._accepted) > 0

    def _reload(self) -> None:
        try:
            if (state := self._state()) != self._seen:
                self._accepted, self._seen = self._load(), state
                log.info("credentials reloaded", files=[str(path) for path, _ in self._files])
        except ActionRequired as error:
            # A file that is being replaced is complete at the next request; until then the old values count.
            log.warning("credentials not reloaded, the old ones stay valid", error=str(error))

    def _state(self) -> list[tuple[int, int]]:
        try:
            return [(found.st_ino, found.st_mtime_ns) for found in (path.stat() for path, _ in self._files)]
        except OSError as error:
            raise ActionRequired(f"cannot read {error.filename}: {error.strerror}", _HINT) from error

    def _load(self) -> list[bytes]:
        accepted = []
        for path, scheme in self._files:
            try:
                lines = [line for line in path.read_text().splitlines() if line.strip()]
            except (OSError, UnicodeDecodeError) as error:
                raise ActionRequired(f"cannot read {path}: {error}", _HINT) from error
            if not lines:
                raise ActionRequired(f"{path} has no line", _HINT)
            for line in lines:
                value = line.strip() if scheme == "Bearer" else b64encode(line.encode()).decode()
                accepted.append(f"{scheme} {value}".encode())
        return accepted


_HINT = "one token, or one user:password, in each line; STORMFOLD_RECEIVE_TOKEN_FILE and STORMFOLD_RECEIVE_USERS_FILE"
