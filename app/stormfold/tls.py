"""TLS towards servers: contexts that follow their files, for certificates are renewed while a worker runs, and what to
do about a handshake that fails."""

import re
import ssl
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from stormfold.errors import ActionRequired

_EXPIRED = (9, 10)
"""OpenSSL's codes of a certificate that is not valid yet, or no longer."""
_ANOTHER_HOST = (62, 64)
"""Of one for another name, or another IP address."""
_OURS = re.compile("ALERT_.*(CERTIFICATE|UNKNOWN_CA)")
"""What a server says that does not like the client's."""


class ReloadingSSLContext(ssl.SSLContext):
    """Verifies servers against `cafile`, by default the system's authorities, and shows them `certfile` if given.

    A new connection has the files as they are then; while they don't fit together, as they were before. Raises
    `OSError` for files that are no good in the beginning.
    """

    def __new__(cls, *_: Path | None) -> "ReloadingSSLContext":
        return super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)

    def __init__(self, cafile: Path | None, certfile: Path | None, keyfile: Path | None) -> None:
        self._cafile, self._certfile, self._keyfile = cafile, certfile, keyfile
        self._state = self._look()
        self._context = self._load()

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """What event loops call for each connection."""
        # A file that is gone or half written will be there next time.
        with suppress(OSError):
            if (state := self._look()) != self._state:
                self._context, self._state = self._load(), state
        return self._context.wrap_bio(incoming, outgoing, server_side, server_hostname, session)

    def _look(self) -> Sequence[tuple[int, int]]:
        found = [path.stat() for path in (self._cafile, self._certfile, self._keyfile) if path is not None]
        return [(file.st_ino, file.st_mtime_ns) for file in found]

    def _load(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self._cafile)
        if self._certfile is not None:
            # Without a password OpenSSL would ask for that of an encrypted key on the terminal.
            context.load_cert_chain(self._certfile, self._keyfile, password="")
        return context


def tls_error(error: BaseException | None, server: str, prefix: str, address: str) -> ActionRequired | None:
    """The error to raise if a failed TLS handshake caused `error`, else None.

    `prefix` begins the names of the server's TLS settings, `address` is the setting that holds its address.
    """
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    if error is None:
        return None
    if isinstance(error, ssl.SSLCertVerificationError):
        said = error.verify_message.rstrip(".")
        if error.verify_code in _EXPIRED:
            return ActionRequired(f"{server}: {said}", "renew the server's certificate")
        if error.verify_code in _ANOTHER_HOST:
            return ActionRequired(f"{server}: {said}", f"set {address} to a name that the server's certificate has")
        return ActionRequired(
            f"{server}: its certificate is not trusted: {said}",
            f"set {prefix}_SSL_CAFILE to the authority that signed it",
        )
    reason = error.reason or str(error)
    files = f"{prefix}_SSL_CERTFILE and {prefix}_SSL_KEYFILE"
    if _OURS.search(reason):
        hint = f"check {files}: valid now, and signed by an authority that the server trusts"
        return ActionRequired(f"{server} refuses the client's certificate, or wants one: {reason}", hint)
    return ActionRequired(f"TLS with {server} failed: {reason}", f"does it speak TLS there? Else check {files}")
