"""Certificates of a test run: authorities, and what they sign for servers and clients, good or expired."""

import datetime
from dataclasses import dataclass
from pathlib import Path

import trustme
from cryptography.hazmat.primitives import serialization

_LONG_AGO = datetime.datetime(2001, 1, 1)


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as files."""

    cert: Path
    key: Path
    both: Path
    """The two in one file, the key in the form that Kafka reads."""

    def become(self, other: "Pair") -> None:
        """Renewal: another pair takes this one's place, as whole files."""
        for mine, its in ((self.cert, other.cert), (self.key, other.key), (self.both, other.both)):
            fresh = mine.with_suffix(".new")
            fresh.write_bytes(its.read_bytes())
            fresh.replace(mine)


class Authority:
    """Signs certificates; `file` is what has to be trusted."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._authority = trustme.CA()
        self.file = folder / "ca.pem"
        self._authority.cert_pem.write_to_path(self.file)

    def issue(self, name: str, host: str = "127.0.0.1", *, expired: bool = False) -> Pair:
        """A pair for the host, with `name` as its common name; expired ones have been so for years."""
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
