"""TLS: contexts that reload renewed certificates while a process runs, and errors of failed handshakes."""

import re
import ssl
from collections.abc import Sequence
from pathlib import Path

import structlog

from stormfold.errors import ActionRequired

log = structlog.get_logger(__name__)

_EXPIRED = (9, 10)
"""OpenSSL's codes for a certificate that is not valid yet, or not any more."""
_OTHER_HOST = (62, 64)
"""OpenSSL's codes for a certificate of another name or IP address."""
_CLIENT_REFUSED = re.compile("ALERT_.*(CERTIFICATE|UNKNOWN_CA)")
"""Alerts of a server that does not accept the client's certificate."""


class ReloadingSSLContext(ssl.SSLContext):
    """Verifies servers against `cafile`, by default the system's authorities, and presents `certfile` if given.

    With the purpose `CLIENT_AUTH` it is the context of a server, which presents `certfile` and verifies no client. Each
    new connection uses the files as they are at that time; while they do not fit together, their last valid state, and
    logs the reason. Raises `OSError` if they are not valid at the beginning.
    """

    def __new__(cls, *_: Path | ssl.Purpose | None) -> "ReloadingSSLContext":
        # The type does not matter: all connections use the context inside.
        return super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)

    def __init__(
        self,
        cafile: Path | None,
        certfile: Path | None,
        keyfile: Path | None,
        purpose: ssl.Purpose = ssl.Purpose.SERVER_AUTH,
    ) -> None:
        self._cafile, self._certfile, self._keyfile, self._purpose = cafile, certfile, keyfile, purpose
        self._problem = ""
        self._state = self._file_state()
        self._context = self._load()

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """Event loops call this for each connection."""
        self._reload()
        return self._context.wrap_bio(incoming, outgoing, server_side, server_hostname, session)

    def _reload(self) -> None:
        try:
            if (state := self._file_state()) != self._state:
                self._context, self._state = self._load(), state
                log.info("TLS files reloaded", files=self._files())
            self._problem = ""
        except OSError as error:
            # A file that is missing or half written is complete at one of the next connections.
            if str(error) != self._problem:
                self._problem = str(error)
                hint = "complete the renewal: the next connection reads the files again"
                log.warning("TLS files not reloaded, old ones apply", files=self._files(), error=str(error), hint=hint)

    def _files(self) -> list[str]:
        return [str(path) for path in (self._cafile, self._certfile, self._keyfile) if path is not None]

    def _file_state(self) -> Sequence[tuple[int, int]]:
        stats = [Path(file).stat() for file in self._files()]
        return [(stat.st_ino, stat.st_mtime_ns) for stat in stats]

    def _load(self) -> ssl.SSLContext:
        context = ssl.create_default_context(self._purpose, cafile=self._cafile)
        if self._certfile is not None:
            # Without a password, OpenSSL would ask on the terminal for that of an encrypted key.
            context.load_cert_chain(self._certfile, self._keyfile, password="")
        return context


def ssl_cause(error: BaseException | None) -> ssl.SSLError | None:
    """The failed TLS handshake that caused `error`; None if another reason did."""
    while error is not None and not isinstance(error, ssl.SSLError):
        # urllib3 wraps the error without a cause.
        wrapped = next((argument for argument in error.args if isinstance(argument, BaseException)), None)
        error = wrapped or error.__cause__ or error.__context__
    return error


def tls_error(error: BaseException | None, server: str, prefix: str, address: str) -> ActionRequired | None:
    """The error to raise if a failed TLS handshake caused `error`, else None.

    `prefix` begins the names of the server's TLS settings; `address` is the setting with its address.
    """
    error = ssl_cause(error)
    if error is None:
        return None
    if isinstance(error, ssl.SSLCertVerificationError):
        message = error.verify_message.rstrip(".")
        if error.verify_code in _EXPIRED:
            return ActionRequired(f"{server}: {message}", "renew the server's certificate")
        if error.verify_code in _OTHER_HOST:
            return ActionRequired(f"{server}: {message}", f"set {address} to a name that the server's certificate has")
        return ActionRequired(
            f"{server}: its certificate is not trusted: {message}",
            f"set {prefix}_SSL_CAFILE to the authority that signed it",
        )
    reason = error.reason or str(error)
    files = f"{prefix}_SSL_CERTFILE and {prefix}_SSL_KEYFILE"
    if _CLIENT_REFUSED.search(reason):
        hint = f"check {files}: valid now, and signed by an authority that the server trusts"
        return ActionRequired(f"{server} refuses the client's certificate, or requires one: {reason}", hint)
    return ActionRequired(f"TLS with {server} failed: {reason}", f"check that it uses TLS there, and {files}")
