"""A failover behind one address, where the old primary keeps its connections: a Service or a proxy that switches."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import BusyLoadingError

from stormfold.errors import Retry
from stormfold.local.process import HOST
from stormfold.local.redis import EmbeddedRedis
from stormfold.redis.client import connect
from stormfold.redis.store import Store
from stormfold.settings import Settings
from tests.integration.redis.actions import Folder, alert, start
from tests.support.redis_servers import Switch, promote, replicate, until_written
from tests.support.servers import until

RECOVERY = 60.0
"""Seconds in which a worker uses the new primary."""


@pytest.fixture
async def second(redis_server: EmbeddedRedis, tmp_path: Path) -> AsyncIterator[EmbeddedRedis]:
    """A replica of the server of the test run, which is a primary and empty again at the end."""
    server = EmbeddedRedis(tmp_path / "second", binary=redis_server.binary)
    await asyncio.to_thread(server.start)
    await promote(redis_server)
    async with Redis.from_url(redis_server.url) as client:
        await client.flushall()
    await replicate(server, redis_server)
    yield server
    await promote(redis_server)
    await until_written(redis_server)
    await asyncio.to_thread(server.kill)


@pytest.fixture
async def switch(redis_server: EmbeddedRedis) -> AsyncIterator[Switch]:
    """Leads to the server of the test run."""
    async with Switch(redis_server.port) as switch:
        yield switch


async def fail_over(switch: Switch, old: EmbeddedRedis, new: EmbeddedRedis) -> None:
    """Promotes the replica, switches the address, and demotes the old primary, which closes no connection."""
    await promote(new)
    switch.target = new.port
    await replicate(old, new)


async def test_scripts_and_commands_reach_the_new_primary_at_once(
    switch: Switch, redis_server: EmbeddedRedis, second: EmbeddedRedis
) -> None:
    async with connect(Settings(redis_url=switch.url)) as redis:
        store = Store(redis, "stormfold")
        await start(store)
        fold = Folder(store)
        await fold([alert(1, 0)])
        await until(lambda: _same(redis_server, second), what="the replica has the alert")
        await fail_over(switch, redis_server, second)
        await fold([alert(2, 0)])
        await store.save_intake_commits({0: (1, "")})
        assert (await redis.info())["tcp_port"] == second.port
        state = await store.load()
        assert state is not None and state.positions[0].offset == 2


async def _same(one: EmbeddedRedis, other: EmbeddedRedis) -> bool:
    offsets = []
    for server in (one, other):
        async with Redis.from_url(server.url) as client:
            offsets.append((await client.info("replication"))["master_repl_offset"])
    return len(set(offsets)) == 1


async def test_reads_do_not_stay_on_the_old_primary(
    switch: Switch, redis_server: EmbeddedRedis, second: EmbeddedRedis
) -> None:
    """A client that only reads gets no error there, so it asks for the role again."""
    async with connect(Settings(redis_url=switch.url)) as redis:
        assert (await redis.info())["tcp_port"] == redis_server.port
        await fail_over(switch, redis_server, second)

        async def moved() -> bool:
            return bool((await redis.info())["tcp_port"] == second.port)

        await until(moved, RECOVERY, "the client reads from the new primary")


async def test_a_client_never_uses_two_servers_at_the_same_time(
    switch: Switch, redis_server: EmbeddedRedis, second: EmbeddedRedis
) -> None:
    """The old primary is not demoted; once a new connection finds the other one, the open ones leave it."""
    async with connect(Settings(redis_url=f"{switch.url}?health_check_interval=600")) as redis:
        first, other = await asyncio.gather(redis.info(), redis.info())
        assert first["tcp_port"] == other["tcp_port"] == redis_server.port
        await promote(second)
        switch.target = second.port
        for _ in range(4):
            assert (await redis.info())["tcp_port"] == redis_server.port
        ports = await asyncio.gather(*(redis.info() for _ in range(3)))
        assert second.port in {info["tcp_port"] for info in ports}
        for _ in range(4):
            assert (await redis.info())["tcp_port"] == second.port


async def test_a_client_of_a_replica_is_told_its_primary_and_what_to_do(
    redis_server: EmbeddedRedis, second: EmbeddedRedis
) -> None:
    settings = Settings(redis_url=second.url)
    async with connect(settings) as redis:
        with pytest.raises(Retry) as raised:
            await Store(redis, "stormfold").load()
    assert str(raised.value) == (
        f"Redis at {second.address} is a replica of {redis_server.address} and accepts no writes (STORMFOLD_REDIS_URL)"
    )
    assert raised.value.hint and "redis+sentinel://" in raised.value.hint


async def test_a_server_that_loads_the_data_of_the_new_primary_is_left(
    switch: Switch, redis_server: EmbeddedRedis, second: EmbeddedRedis
) -> None:
    async with connect(Settings(redis_url=switch.url)) as redis, Redis.from_url(redis_server.url) as admin:
        await redis.ping()
        # A server that loads answers after every 2 MiB, so it must have the opportunity often.
        for n in range(20):
            await admin.set(f"large-{n}", os.urandom(3_000_000))
        await until(lambda: _same(redis_server, second), what="the replica has all")
        await admin.config_set("key-load-delay", 150_000)
        await promote(second)
        # With a write that the new primary does not know, the old one has to load everything.
        await admin.set("unknown", b"")
        async with Redis.from_url(second.url) as client:
            await client.config_set("repl-diskless-sync-delay", 0)
        await admin.replicaof(HOST, second.port)
        await until(lambda: _loading(redis_server), what="the old primary loads")
        switch.target = second.port
        await redis.set("key", "value")
        assert (await redis.info())["tcp_port"] == second.port
        # Redis 6 takes no configuration while it loads.
        await until(lambda: _loaded(redis_server), what="the old primary has loaded")
        await admin.config_set("key-load-delay", 0)


async def _loaded(server: EmbeddedRedis) -> bool:
    return not await _loading(server)


async def _loading(server: EmbeddedRedis) -> bool:
    async with Redis.from_url(server.url) as client:
        try:
            await client.get("key")
        except BusyLoadingError:
            return True
    return False
