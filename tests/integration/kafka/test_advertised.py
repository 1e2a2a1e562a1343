"""Brokers that answer at the bootstrap address, but advertise an address that clients cannot reach."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, closing, suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from stormfold.errors import Retry
from stormfold.kafka.client import open_admin
from stormfold.kafka.producer import Producer
from stormfold.kafka.reader import open_reader
from stormfold.kafka.topics import create, topics
from stormfold.local.kafka import EmbeddedKafka
from stormfold.local.process import HOST, free_port
from stormfold.local.redis import EmbeddedRedis
from stormfold.settings import Settings
from tests.integration.security.guarded import changed, problems, ready, wait_until_unready
from tests.support.alerts import alert
from tests.support.cli import stormfold
from tests.support.servers import fresh_settings, until
from tests.support.workers import Workers

UNKNOWN = "kafka.invalid:9092"
LISTENERS = ("PLAINTEXT", "REFUSED", "UNKNOWN", "SILENT", "RELAYED")


class Broker(NamedTuple):
    """A broker with a listener for each reason; PLAINTEXT can be reached."""

    server: EmbeddedKafka
    ports: dict[str, int]
    advertised: dict[str, str]

    def at(self, listener: str) -> str:
        """The address where the listener answers."""
        return f"{HOST}:{self.ports[listener]}"


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """The broker. What connects to SILENT gets no answer: the queue of its socket is full."""
    with ExitStack() as stack:
        silent = stack.enter_context(closing(socket.socket()))
        silent.bind((HOST, 0))
        silent.listen(0)
        for _ in range(2):
            waiting = stack.enter_context(closing(socket.socket()))
            waiting.setblocking(False)
            with suppress(BlockingIOError):
                waiting.connect(silent.getsockname())
        ports, controller = {name: free_port() for name in LISTENERS}, free_port()
        advertised = {
            "PLAINTEXT": f"{HOST}:{ports['PLAINTEXT']}",
            "REFUSED": f"{HOST}:{free_port()}",
            "UNKNOWN": UNKNOWN,
            "SILENT": f"{HOST}:{silent.getsockname()[1]}",
            "RELAYED": f"{HOST}:{free_port()}",
        }
        listeners = ",".join(f"{name}://{HOST}:{port}" for name, port in ports.items())
        server = EmbeddedKafka(
            tmp_path_factory.mktemp("advertised"),
            port=ports["PLAINTEXT"],
            properties={
                "controller.quorum.voters": f"1@{HOST}:{controller}",
                "listeners": f"{listeners},CONTROLLER://{HOST}:{controller}",
                "advertised.listeners": ",".join(f"{name}://{address}" for name, address in advertised.items()),
                "listener.security.protocol.map": ",".join(f"{name}:PLAINTEXT" for name in (*LISTENERS, "CONTROLLER")),
            },
        )
        server.start()
        stack.callback(server.stop)
        yield Broker(server, ports, advertised)


@pytest.fixture
async def reachable(broker: Broker, redis_server: EmbeddedRedis) -> Settings:
    """Settings with topics, for the listener that can be reached."""
    found = changed(fresh_settings(broker.server, redis_server), http_address=f"{HOST}:{free_port()}")
    async with open_admin(found) as admin:
        await create(admin, topics(found, 1))
    return found


def through(listener: str, settings: Settings, broker: Broker) -> Settings:
    """The same settings for another listener."""
    return changed(settings, kafka_bootstrap_servers=broker.at(listener))


async def administer(settings: Settings) -> None:
    async with open_admin(settings) as admin:
        await admin.describe_topics()


async def read(settings: Settings) -> None:
    async with open_reader(settings) as reader:
        await reader.end_offsets(settings.alerts_topic)


async def produce(settings: Settings) -> None:
    await Producer(settings, "test").send(settings.alerts_topic, {0: [(None, b"{}")]})


@pytest.mark.parametrize("client", [administer, read, produce])
@pytest.mark.parametrize(
    ("listener", "reason"), [("REFUSED", "connection refused"), ("UNKNOWN", "unknown host"), ("SILENT", "no answer")]
)
async def test_every_client_names_the_address_that_the_broker_advertises(
    broker: Broker, reachable: Settings, client: Callable[[Settings], Awaitable[None]], listener: str, reason: str
) -> None:
    """It does not report the address that answers, and does not wait without limit."""
    settings, advertised = through(listener, reachable, broker), broker.advertised[listener]
    async with asyncio.timeout(30):
        with pytest.raises(Retry) as raised:
            await client(settings)
    assert str(raised.value) == (
        f"Kafka at {broker.at(listener)} answers, but advertises {advertised}, which cannot be reached from here: "
        f"{reason}"
    )
    assert raised.value.hint and "advertised.listeners" in raised.value.hint


async def test_commands_name_the_address_that_the_broker_advertises(broker: Broker, reachable: Settings) -> None:
    settings = through("REFUSED", reachable, broker)
    commands = ["topics", "topics --create", "storms", "status", "audit", "dlq", "publish -"]
    answers = await asyncio.gather(
        *(stormfold(settings, *words.split(), stdin=json.dumps(alert(pod="p"))) for words in commands)
    )
    for words, answer in zip(commands, answers, strict=True):
        assert answer.returncode == 1, words
        assert f"advertises {broker.advertised['REFUSED']}, which cannot be reached" in answer.stderr, words
        assert "advertised.listeners" in answer.stderr and "Traceback" not in answer.stderr, words


@asynccontextmanager
async def relay(address: str, target: str) -> AsyncIterator[None]:
    """Forwards connections to another address; in the end all are cut."""
    writers: set[asyncio.StreamWriter] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.add(writer)
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        incoming, outgoing = await asyncio.open_connection(*target.split(":"))
        await asyncio.gather(pump(reader, outgoing), pump(incoming, writer))

    host, port = address.split(":")
    server = await asyncio.start_server(forward, host, int(port))
    try:
        yield
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()


async def test_a_worker_reports_the_address_that_became_unreachable(
    broker: Broker, reachable: Settings, tmp_path: Path
) -> None:
    """At its start and later, in its log and by /readyz; it is ready once it reaches the broker."""
    settings, advertised = through("RELAYED", reachable, broker), broker.advertised["RELAYED"]
    reason = f"advertises {advertised}, which cannot be reached from here: connection refused"
    with Workers(settings, tmp_path) as workers:
        workers.start()
        await wait_until_unready(settings, reason)
        async with relay(advertised, broker.at("RELAYED")):
            await ready(settings)

        async def reported() -> bool:
            return any(reason in one for one in await problems(settings) or ())

        await until(reported, 60, "the worker reports the address again")
        async with relay(advertised, broker.at("RELAYED")):
            await ready(settings)
        assert reason in workers.logs()
