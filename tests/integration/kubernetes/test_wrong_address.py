"""Another server at the address of the API server: a proxy, or one without TLS."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml

from stormfold.errors import ActionRequired
from stormfold.sinks.kubernetes import KubernetesSink
from tests.support.storms import manifest

PAGE = b"<!DOCTYPE html><title>ERROR</title><p>Invalid URL</p>"


@pytest.fixture
async def proxy() -> AsyncIterator[str]:
    """Address of a server that answers each request that is not for a proxy, such as one for a path, with a page."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        head = f"HTTP/1.1 400 Bad Request\r\nContent-Type: text/html\r\nContent-Length: {len(PAGE)}\r\n\r\n"
        writer.write(head.encode() + PAGE)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_at_the_address_of_the_api_server_is_named(proxy: str, tmp_path: Path, scheme: str) -> None:
    """Neither a certificate nor the storm is blamed: it makes no dead letter."""
    kubeconfig = tmp_path / "kubeconfig"
    config = {
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": f"{scheme}://{proxy}"}}],
        "users": [{"name": "c", "user": {"token": "t"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
    }  # fmt: skip
    kubeconfig.write_text(yaml.safe_dump(config))
    sink = KubernetesSink(kubeconfig, None)
    try:
        with pytest.raises(ActionRequired) as raised:
            await sink.write(manifest(), manifest()["metadata"]["name"])
    finally:
        await sink.close()
    assert raised.value.hint == "correct `server` in the kubeconfig; a proxy on the way there is set by `proxy-url`"
