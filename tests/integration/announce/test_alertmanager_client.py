"""Posting to Alertmanager: every instance gets every alert, and one that is away delays and hides nothing."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from stormfold.announce import alertmanager as client_module
from stormfold.announce.alertmanager import Alertmanager as Client
from stormfold.settings import Settings
from tests.integration.deploy.test_docs import blocks
from tests.integration.security.certificates import Authority
from tests.support.alertmanager import Alertmanager, program
from tests.support.gobuild import built

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "early-notice.md"
CONFIG = "route: {receiver: none}\nreceivers: [{name: none}]\n"
USER, PASSWORD = "stormfold", "test"
HASH = "$2b$12$hNf2lSsxfm0.i4a.1kVpSOVyBCfIB51VRjgBUyv6kdnyTlgWj81Ay"
"""bcrypt of the password."""


@asynccontextmanager
async def running(folder: Path, *options: str) -> AsyncIterator[Alertmanager]:
    """An Alertmanager on a free port."""
    server = Alertmanager(folder, CONFIG, *options)
    await asyncio.to_thread(server.start)
    try:
        yield server
    finally:
        await asyncio.to_thread(server.stop)


@asynccontextmanager
async def posting(**settings: Any) -> AsyncIterator[Client]:
    client = Client(Settings(**settings))
    try:
        yield client
    finally:
        await client.close()


def incidents(number: int = 1) -> list[dict[str, Any]]:
    """Alerts as incidents are announced."""
    now = datetime.now(UTC)
    return [
        {
            "labels": {"alertname": "AlertIncident", "cluster": f"eu{n}", "stormfold": "incident"},
            "annotations": {"summary": "x" * 900},
            "startsAt": now.isoformat(),
            "endsAt": (now + timedelta(minutes=1)).isoformat(),
        }
        for n in range(number)
    ]


@pytest.fixture(autouse=True)
def _built(request: pytest.FixtureRequest) -> None:
    built(request.config, program)


async def test_the_configuration_of_the_page_is_accepted(tmp_path: Path) -> None:
    config = "\n".join(blocks(PAGE, "yaml"))
    assert "inhibit_rules" in config and "on-call" in config
    server = Alertmanager(tmp_path / "a", config)
    await asyncio.to_thread(server.start)
    await asyncio.to_thread(server.stop)


async def test_every_instance_gets_all_alerts_and_one_that_is_away_is_named(tmp_path: Path) -> None:
    away = "http://127.0.0.1:1"
    async with running(tmp_path / "a") as one, running(tmp_path / "b") as other:
        urls = [f"http://{one.address}", away, f"http://{other.address}/", "http://no-such-host.invalid:9093"]
        async with posting(alertmanager=", ".join(urls)) as client:
            problems = await client.post(incidents(200))
            assert problems.keys() == {away, urls[3]}
            assert "no-such-host.invalid" in problems[urls[3]]
            for server in (one, other):
                assert len(await server.alerts()) == 200, "more than one request, as a body has 64 KB at most"
            found = await client.firing({"alertname": "AlertIncident", "stormfold": "incident"})
            assert found is not None and len(found) == 200
            assert await client.firing({"stormfold": "other"}) == []


async def test_every_address_of_a_name_gets_all_alerts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path / "a") as server:
        port = server.port
        second = Alertmanager(tmp_path / "b", CONFIG, f"--web.listen-address=127.0.0.3:{port}")
        await asyncio.to_thread(second.start)
        try:
            resolve = asyncio.get_running_loop().getaddrinfo

            async def two(host: str, *more: Any, **options: Any) -> Any:
                assert host == "alertmanager.monitoring"
                return [*await resolve("127.0.0.1", *more, **options), *await resolve("127.0.0.3", *more, **options)]

            monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", two)
            async with posting(alertmanager=f"http://alertmanager.monitoring:{port}") as client:
                assert await client.post(incidents()) == {}
            assert len(await server.alerts()) == len(await second.alerts()) == 1
        finally:
            await asyncio.to_thread(second.stop)


async def test_tls_and_basic_authentication_from_files(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    pair = authority.issue("alertmanager")
    web = tmp_path / "web.yml"
    web.write_text(
        f"tls_server_config: {{cert_file: {pair.cert}, key_file: {pair.key}}}\nbasic_auth_users: {{{USER}: '{HASH}'}}\n"
    )
    password = tmp_path / "password"
    password.write_text("wrong\n")
    async with running(tmp_path / "a", f"--web.config.file={web}") as server:
        settings: dict[str, Any] = {
            "alertmanager": f"https://{server.address}",
            "alertmanager_username": USER,
            "alertmanager_password_file": password,
        }
        async with posting(**settings) as client:
            (problem,) = set((await client.post(incidents())).values())
            assert "certificate verify failed" in problem
        async with posting(**settings, alertmanager_ssl_cafile=authority.file) as client:
            (problem,) = (await client.post(incidents())).values()
            assert problem.startswith("401")
            password.write_text(f"{PASSWORD}\n")
            assert await client.post(incidents()) == {}
            found = await client.firing({"stormfold": "incident"})
            assert found is not None and len(found) == 1


async def test_an_instance_that_does_not_answer_costs_its_timeout_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "TIMEOUT", 3.0)
    silent = await asyncio.start_server(lambda _reader, _writer: asyncio.sleep(60), "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    async with silent, running(tmp_path / "a") as server:
        async with posting(alertmanager=f"http://127.0.0.1:{port},http://{server.address}") as client:
            problems = await client.post(incidents())
        assert problems == {f"http://127.0.0.1:{port}": "no answer within 3 s"}
        assert len(await server.alerts()) == 1
        silent.close()


async def test_all_instances_are_asked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other, those that do not answer would take 100 s, and then 20 s."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        urls = [f"http://127.0.0.1:{port}/{n}" for n in range(20)]
        async with running(tmp_path / "a") as server:
            await server.alerts(incidents())
            async with posting(alertmanager=",".join([*urls, f"http://{server.address}"])) as client:
                async with asyncio.timeout(30):
                    found = await client.firing({"stormfold": "incident"})
                assert found is not None and len(found) == 1
        monkeypatch.setattr(client_module, "TIMEOUT", 1.0)
        async with posting(alertmanager=",".join(urls)) as client, asyncio.timeout(10):
            assert await client.firing({"stormfold": "incident"}) is None


async def test_an_instance_that_has_no_alerts_does_not_answer_for_the_others(tmp_path: Path) -> None:
    """It was just started, and answers first."""
    async with running(tmp_path / "a") as full, running(tmp_path / "b") as empty:
        await full.alerts(incidents())

        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await asyncio.sleep(0.5)
            to_reader, to_writer = await asyncio.open_connection("127.0.0.1", full.port)
            to_writer.write(await reader.readuntil(b"\r\n\r\n"))
            writer.write(await to_reader.read(65536))
            to_writer.close()
            writer.close()

        async with await asyncio.start_server(relay, "127.0.0.1", 0) as late:
            urls = f"http://{empty.address},http://127.0.0.1:{late.sockets[0].getsockname()[1]}"
            async with posting(alertmanager=urls) as client:
                found = await client.firing({"stormfold": "incident"})
    assert found is not None and len(found) == 1
