"""HTTP headers: what becomes a header of a record, and which credentials are accepted."""

from pathlib import Path

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from stormfold.receive.credentials import Credentials
from stormfold.receive.server import kafka_headers

LATIN_1 = b"caf\xe9".decode(errors="surrogateescape")
"""Bytes that are not UTF-8, as aiohttp decodes them."""


def test_headers_keep_bytes_that_are_not_utf_8() -> None:
    """A sender repeats a request that fails, so it must not fail because of them."""
    headers = CIMultiDict({"ce-source": LATIN_1, "Ce-Id": "%C3%A9", "Content-Type": f"application/json; {LATIN_1}"})
    assert kafka_headers(CIMultiDictProxy(headers)) == [
        ("ce_source", b"caf\xe9"), ("ce_id", b"\xc3\xa9"), ("content-type", b"application/json; caf\xe9"),
    ]  # fmt: skip


@pytest.mark.parametrize("header", [LATIN_1, f"Bearer {LATIN_1}"])
def test_credentials_that_are_not_utf_8_are_refused(tmp_path: Path, header: str) -> None:
    """They are wrong, not an error; a token of other letters is accepted."""
    tokens = tmp_path / "tokens"
    tokens.write_text("café\n")
    credentials = Credentials(tokens, None)
    assert not credentials.accepts(header) and credentials.accepts("Bearer café")
