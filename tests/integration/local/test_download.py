"""The download of Kafka's jars through a proxy that inspects TLS."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
import trustme

from stormfold.errors import ActionRequired
from stormfold.local.kafka import VERSION, jars
from stormfold.tls import ssl_cause


@pytest.fixture
async def proxy() -> AsyncIterator[str]:
    """Address of a proxy that presents, for every server, a certificate of an authority that nobody trusts."""

    async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode().partition(":")[0]
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(host).configure_cert(context)
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await writer.drain()
        with suppress(OSError):
            await writer.start_tls(context)
        writer.close()

    authority = trustme.CA()
    async with await asyncio.start_server(tunnel, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_an_untrusted_certificate_is_named_with_the_variable_for_its_authority(
    proxy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hint has the folder to copy for use without a network."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", proxy)
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(
        ActionRequired, match=rf"download Kafka {VERSION}: the certificate of \S+ is not trusted"
    ) as raised:
        await asyncio.to_thread(jars)
    assert ssl_cause(raised.value) is not None
    hint = raised.value.hint or ""
    assert "REQUESTS_CA_BUNDLE" in hint and str(tmp_path / "stormfold" / f"kafka-{VERSION}") in hint
    assert "check the network" not in hint
