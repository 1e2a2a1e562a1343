"""Real servers, and workers that reach each of them through a proxy of their own, which faults can cut."""

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from prometheus_client.parser import text_string_to_metric_families

from stormfold.config import load
from stormfold.kafka.client import open_admin
from stormfold.kafka.topics import create, topics
from stormfold.local.process import HOST, ServerProcess, free_port
from stormfold.local.redis import EmbeddedRedis, find_servers
from stormfold.settings import Settings
from tests.chaos.brokers import BROKERS, Cluster
from tests.chaos.load import Planned
from tests.chaos.producer import LiveLoad
from tests.chaos.toxiproxy import Proxy, Toxiproxy
from tests.support.apiserver import WORKER, ApiServer
from tests.support.workers import Workers

WINDOWS = "windows: {gap: 3s, grace: 2s, slice: 12s}\nincidents: {gap: 5s, max: 20s}\nmax_storms: 1000000\n"
"""So short that a fault meets aggregates in every state. Retention deletes nothing."""
PARTITIONS = 12
SESSION = 4.0
"""Session timeout of the consumers (s)."""
WORKERS = 3
"""Workers that run all the time. One more slot is for a worker that faults add and remove."""
STOP_SECONDS = 20.0
"""Longest time that a worker may take to stop, on a busy machine."""
SINK_MB = 512
"""Size of the sink's own file system, where it has one."""
ROOT = [] if os.geteuid() == 0 else ["sudo", "-n"]
"""The prefix of commands that need root."""


class Redis(EmbeddedRedis):
    """A Redis that accepts DEBUG commands."""

    def prepare(self) -> list[str]:
        """Enables DEBUG, which versions before 7 always accept."""
        options = ["--enable-debug-command", "local"] if find_servers()[0].version >= (7,) else []
        return [*super().prepare(), *options]


@dataclass
class Slot:
    """A place for one worker at a time: its ways to the servers, and its current process."""

    kafka: Sequence[Proxy]
    """One way to each broker."""
    redis: Proxy
    extra: dict[str, str] = field(default_factory=dict)
    """Further settings of the workers in this slot."""
    process: subprocess.Popen[bytes] | None = None
    http: str = ""

    @property
    def running(self) -> bool:
        """Whether a worker runs in the slot."""
        return self.process is not None and self.process.poll() is None

    async def problem(self) -> str:
        """Returns the problems that the worker's /readyz reports; empty if it is ready."""
        timeout = aiohttp.ClientTimeout(total=1.0)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.get(f"http://{self.http}/readyz") as answer,
            ):
                return "" if answer.status == 200 else await answer.text()
        except (aiohttp.ClientError, TimeoutError) as error:
            return f"no answer: {error!r}"

    async def ready(self) -> bool:
        """Returns whether the worker reports that it is ready."""
        return not await self.problem()

    async def metric(self, name: str) -> float | None:
        """Returns the sum of a metric of the worker over all labels; None if it does not answer."""
        timeout = aiohttp.ClientTimeout(total=1.0)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.get(f"http://{self.http}/metrics") as answer,
            ):
                text = await answer.text()
        except (aiohttp.ClientError, TimeoutError):
            return None
        families = text_string_to_metric_families(text)
        return sum(sample.value for family in families for sample in family.samples if sample.name == name)

    def resident(self) -> int:
        """Returns the resident memory of the worker in bytes."""
        assert self.process is not None
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def descriptors(self) -> int:
        """Returns the number of open files and sockets of the worker."""
        assert self.process is not None
        return sum(1 for _ in Path(f"/proc/{self.process.pid}/fd").iterdir())


@dataclass
class Kubernetes:
    """A Kubernetes API server, and a worker of the stage emit that writes the storms there a second time."""

    server: ApiServer
    way: Proxy
    emitter: Slot
    settings: Settings
    """Settings with the consumer group of this worker."""
    gone: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Storms that existed when their definition was removed, by name."""


class World:
    """All servers and workers of a run. Faults break and repair them."""

    kafka: Cluster
    redis: EmbeddedRedis
    settings: Settings
    """Settings with which the run itself reaches Kafka and Redis, without proxies."""
    slots: list[Slot]
    producer: LiveLoad
    others: Kubernetes | None = None
    """The Kubernetes API server, where there is one."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self.folder = folder
        self.config_file = folder / "stormfold.yaml"
        self.config_file.write_text(WINDOWS)
        self.config = load(self.config_file)
        self.sink = folder / "storms"
        self.sink.mkdir()
        self.complaints: list[str] = []
        """Errors that are not about alerts or aggregates."""
        self.truncated: list[tuple[int, int]] = []
        """Spans of event time (ms) folded while Redis was full: their aggregates may lack detail."""
        self._stack = stack
        self._workers: Workers

    @property
    def cluster(self) -> Kubernetes:
        """The Kubernetes API server, which must exist."""
        assert self.others is not None
        return self.others

    @property
    def full_workers(self) -> list[Slot]:
        """The slots with a running worker of all stages."""
        return [slot for slot in self.slots if slot.running]

    @property
    def usual(self) -> list[Slot]:
        """The slots that have such a worker most of the time, including those where it is down."""
        return self.slots[:WORKERS]

    @property
    def emitters(self) -> list[Slot]:
        """The slot of the worker that writes to the API server, where there is one."""
        return [self.others.emitter] if self.others else []

    @property
    def all_workers(self) -> list[Slot]:
        """Every running worker, and the one that writes to the API server, which must run."""
        return [*self.full_workers, *self.emitters]

    @property
    def expendable(self) -> list[Slot]:
        """The workers that a fault may kill: all but the first, which is watched for as long as it lives."""
        return self.all_workers[1:]

    async def open(self, planned: Iterator[Planned], *, disk: bool, cluster: bool) -> None:
        """Starts the servers. `disk` gives the sink a file system of its own; `cluster` adds an API server."""
        if disk:
            await self._mount()
        toxiproxy = Toxiproxy(self.folder / "toxiproxy")
        await self.run(toxiproxy)
        slots = [
            Slot([Proxy(toxiproxy, f"kafka-{n}-{b}") for b in range(BROKERS)], Proxy(toxiproxy, f"redis-{n}"))
            for n in range(WORKERS + 2)
        ]
        ways = list(zip(*(slot.kafka for slot in slots), strict=True))
        self.kafka = Cluster(self.folder / "kafka", [[way.address for way in mine] for mine in ways])
        await asyncio.gather(*map(self.run, self.kafka.servers), self.another_redis())
        for mine, listeners in zip(ways, self.kafka.listeners, strict=True):
            for way, listener in zip(mine, listeners, strict=True):
                await way.open(listener)
        for slot in slots:
            await slot.redis.open(self.redis.address)
        self.slots = slots[:-1]
        self.settings = Settings(
            kafka_bootstrap_servers=self.kafka.bootstrap, redis_url=self.redis.url,
            sink=f"directory:{self.sink}", http_address=f"{HOST}:0",
            session_timeout=SESSION, delivery_timeout=5, close_lease=15,
        )  # fmt: skip
        async with open_admin(self.settings) as admin:
            await create(admin, topics(self.settings, PARTITIONS, producer_timestamps=True))
        self.producer = LiveLoad(self.settings, planned, PARTITIONS, self.config.windows.grace)
        self._workers = self._stack.enter_context(Workers(self.settings, self.folder, self.config_file))
        if cluster:
            await self._open_cluster(toxiproxy, slots[-1])
        for slot in self.usual:
            self.start(slot)

    def start(self, slot: Slot) -> None:
        """Starts a worker in the slot."""
        slot.http = f"{HOST}:{free_port()}"
        slot.process = self._workers.start(
            kafka_bootstrap_servers=",".join(way.address for way in slot.kafka),
            redis_url=f"redis://{slot.redis.address}/0",
            http_address=slot.http,
            **slot.extra,
        )

    async def end(self, slot: Slot, sign: signal.Signals) -> None:
        """Ends the worker in the slot with a signal, and waits until it has exited."""
        assert slot.process is not None
        slot.process.send_signal(sign)
        asked = time.monotonic()
        code = await asyncio.to_thread(slot.process.wait, 60)
        took = time.monotonic() - asked
        if sign == signal.SIGKILL:
            assert code == -sign, f"worker {slot.process.pid} had ended before, with exit code {code}"
        if sign == signal.SIGTERM and (code or took > STOP_SECONDS):
            self.complaints.append(f"worker {slot.process.pid} took {took:.0f} s to stop, with exit code {code}")

    async def run(self, server: ServerProcess) -> None:
        """Starts a server, which is killed at the end of the run."""
        self._stack.push_async_callback(asyncio.to_thread, server.kill)
        await asyncio.to_thread(server.start)

    async def another_redis(self) -> None:
        """Starts another Redis, which is `redis` from now on."""
        redis = Redis(self.folder / f"redis-{time.time_ns()}")
        await self.run(redis)
        self.redis = redis

    async def lead_to_redis(self) -> None:
        """Points all ways to Redis at `redis`."""
        slots = {id(slot): slot for slot in [*self.slots, *self.all_workers]}
        await asyncio.gather(*(slot.redis.point(self.redis.address) for slot in slots.values()))
        self.settings = self.settings.model_copy(update={"redis_url": self.redis.url})

    async def _mount(self) -> None:
        options = f"size={SINK_MB}m,mode=1777"
        mount = [*ROOT, "mount", "-t", "tmpfs", "-o", options, "stormfold-chaos", str(self.sink)]
        await asyncio.to_thread(subprocess.run, mount, check=True)
        self._stack.callback(subprocess.run, [*ROOT, "umount", "--lazy", str(self.sink)], check=True)

    async def _open_cluster(self, toxiproxy: Toxiproxy, slot: Slot) -> None:
        server = ApiServer(self.folder / "cluster")
        self._stack.callback(server.kill)
        await asyncio.to_thread(server.start)
        await asyncio.to_thread(server.install)
        way = Proxy(toxiproxy, "api")
        await way.open(server.address.removeprefix("https://"))
        access = yaml.safe_load(server.kubeconfig(WORKER).read_text())
        access["clusters"][0]["cluster"]["server"] = f"https://{way.address}"
        kubeconfig = self.folder / "kubeconfig"
        kubeconfig.write_text(yaml.safe_dump(access))
        slot.extra = {
            "stages": "emit", "group_prefix": "cluster", "sink": "kubernetes", "kubeconfig": str(kubeconfig)
        }  # fmt: skip
        self.others = Kubernetes(server, way, slot, self.settings.model_copy(update={"group_prefix": "cluster"}))
        self.start(slot)


@asynccontextmanager
async def world(folder: Path, planned: Iterator[Planned], *, disk: bool, cluster: bool) -> AsyncIterator[World]:
    """Starts everything in an existing folder, without publishing; stops everything at the end."""
    async with AsyncExitStack() as stack:
        place = World(folder, stack)
        await place.open(planned, disk=disk, cluster=cluster)
        yield place
