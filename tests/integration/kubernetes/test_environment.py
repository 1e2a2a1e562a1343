"""The sink in an environment that names a proxy, and with passwords in a netrc file."""

import asyncio
import base64
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from stormfold.sinks import Outcome
from stormfold.sinks.kubernetes import KubernetesSink
from tests.support.apiserver import WORKER, ApiServer
from tests.support.storms import NAME, manifest


class Proxy:
    """Forwards connections that are opened with CONNECT."""

    def __init__(self) -> None:
        self.address = ""
        self.credentials: list[bytes] = []
        """Those of each connection."""

    async def tunnel(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves one connection."""
        head = await reader.readuntil(b"\r\n\r\n")
        host, _, port = head.split()[1].decode().partition(":")
        to_reader, to_writer = await asyncio.open_connection(host, int(port))
        self.credentials += re.findall(rb"Proxy-Authorization: (.*)\r\n", head)
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(_copy(reader, to_writer), _copy(to_reader, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    proxy = Proxy()
    async with await asyncio.start_server(proxy.tunnel, "127.0.0.1", 0) as server:
        proxy.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield proxy


async def _write(server: ApiServer) -> Outcome:
    sink = KubernetesSink(server.kubeconfig(WORKER), None)
    try:
        return await sink.write(manifest(), NAME)
    finally:
        await sink.close()


@pytest.mark.parametrize(
    ("scheme", "without", "connections"), [("http", "", 1), ("http", "127.0.0.1", 0), ("https", "", 0)]
)
async def test_a_proxy_of_the_environment_is_used_except_where_none_is_wanted_or_it_needs_tls(
    storms: ApiServer, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, scheme: str, without: str, connections: int
) -> None:
    monkeypatch.setenv("https_proxy", f"{scheme}://me:secret@{proxy.address}")
    monkeypatch.setenv("no_proxy", without)
    assert await _write(storms) is Outcome.CREATED
    assert proxy.credentials == [b"Basic " + base64.b64encode(b"me:secret")] * connections


async def test_passwords_of_netrc_do_not_concern_the_cluster(
    storms: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kubeconfig has the credentials."""
    netrc = tmp_path / "netrc"
    netrc.write_text("default login somebody password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    assert await _write(storms) is Outcome.CREATED
