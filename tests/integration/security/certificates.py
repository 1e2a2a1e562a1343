"""Certificates of a test run: authorities, and the valid and expired certificates that they sign."""

import datetime
from dataclasses import dataclass
from pathlib import Path

import trustme
from cryptography.hazmat.primitives import serialization

_LONG_AGO = datetime.datetime(2001, 1, 1)


@dataclass(frozen=True)
class Pair:
    """The files of a certificate and its key."""

    cert: Path
    key: Path
    both: Path
    """One file with both, the key in PKCS #8 for Kafka."""

    def become(self, other: "Pair") -> None:
        """Replaces the files with those of another pair, each atomically."""
        for mine, its in ((self.cert, other.cert), (self.key, other.key), (self.both, other.both)):
            _replace(mine, its)


class Authority:
    """A certificate authority; `file` is its own certificate."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._authority = trustme.CA()
        self.file = folder / "ca.pem"
        self._authority.cert_pem.write_to_path(self.file)

    def issue(self, name: str, host: str = "127.0.0.1", *, expired: bool = False) -> Pair:
        """Issues a pair for the host with `name` as its common name; expired ones ended years ago."""
        signed = self._authority.issue_cert(host, common_name=name, not_after=_LONG_AGO if expired else None)
        number = len(list(self._folder.iterdir()))
        pair = Pair(*(self._folder / f"{name}-{number}.{kind}" for kind in ("crt", "key", "pem")))
        chain = b"".join(part.bytes() for part in signed.cert_chain_pems)
        key = serialization.load_pem_private_key(signed.private_key_pem.bytes(), None).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        pair.cert.write_bytes(chain)
        pair.key.write_bytes(key)
        pair.both.write_bytes(key + chain)
        return pair


class Files:
    """The files of one side of a connection, which can be renewed while it runs: its pair and its trusted authority."""

    def __init__(self, authority: Authority, name: str) -> None:
        self._name = name
        self.pair = authority.issue(name)
        self.trusted = self.pair.cert.with_suffix(".trusted")
        _replace(self.trusted, authority.file)

    def settings(self, server: str) -> dict[str, Path]:
        """Returns the settings of a client of `kafka` or `redis`."""
        names = {"cafile": self.trusted, "certfile": self.pair.cert, "keyfile": self.pair.key}
        return {f"{server}_ssl_{name}": path for name, path in names.items()}

    def become(self, authority: Authority, *, expired: bool = False) -> None:
        """Replaces the pair with a new one of that authority, and trusts only that authority."""
        self.pair.become(authority.issue(self._name, expired=expired))
        _replace(self.trusted, authority.file)


def _replace(path: Path, source: Path) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_bytes(source.read_bytes())
    fresh.replace(path)
