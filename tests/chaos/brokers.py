"""A Kafka cluster of a controller and two brokers, each of which can take over partitions and groups of the other."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from aiokafka.conn import create_conn
from aiokafka.protocol.admin import AlterPartitionReassignmentsRequest
from aiokafka.protocol.coordination import FindCoordinatorRequest
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.offset import OffsetRequest

from stormfold.local.kafka import EmbeddedKafka, new_cluster
from stormfold.local.process import HOST, ServerProcess, free_port
from stormfold.settings import Settings
from tests.support.servers import until

BROKERS = 2
FIRST_NODE = 2
"""Node id of the first broker. The controller has 1."""
_COMMON = {
    "controller.listener.names": "CONTROLLER",
    "group.min.session.timeout.ms": "1000",
    "offsets.topic.replication.factor": str(BROKERS),
    # So many that each broker coordinates some group.
    "offsets.topic.num.partitions": "50",
    "transaction.state.log.replication.factor": str(BROKERS),
    # A broker that returns soon leads its partitions again; the default is 300 s.
    "leader.imbalance.check.interval.seconds": "2",
    "replica.lag.time.max.ms": "5000",
}


class Cluster:
    """A cluster, not started. `ways` are, for each broker, further addresses that lead to it.

    `properties` are further properties of all servers; they override the cluster's own.
    """

    def __init__(
        self, folder: Path, ways: Sequence[Sequence[str]], properties: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        name, port = new_cluster(), free_port()
        voters = {"controller.quorum.voters": f"1@{HOST}:{port}", **_COMMON, **properties}
        controller = {
            "process.roles": "controller",
            "listeners": f"CONTROLLER://{HOST}:{port}",
            "advertised.listeners": f"CONTROLLER://{HOST}:{port}",
        }
        self.controller = EmbeddedKafka(folder / "controller", port, properties=voters | controller, cluster=name)
        self.listeners: list[list[str]] = []
        """For each broker, the addresses that its ways must lead to, in their order."""
        self.brokers: list[EmbeddedKafka] = []
        for number, mine in enumerate(ways):
            own, *others = (free_port() for _ in range(1 + len(mine)))
            listeners = [f"{HOST}:{other}" for other in others]
            listens = {"PLAINTEXT": f"{HOST}:{own}", **{f"W{way}": at for way, at in enumerate(listeners)}}
            advertised = {"PLAINTEXT": f"{HOST}:{own}", **{f"W{way}": at for way, at in enumerate(mine)}}
            properties = {
                "process.roles": "broker",
                "node.id": str(number + FIRST_NODE),
                "listeners": ",".join(f"{listener}://{address}" for listener, address in listens.items()),
                "advertised.listeners": ",".join(f"{listener}://{address}" for listener, address in advertised.items()),
                "listener.security.protocol.map": ",".join(
                    f"{listener}:PLAINTEXT" for listener in (*listens, "CONTROLLER")
                ),
                "inter.broker.listener.name": "PLAINTEXT",
            }
            self.listeners.append(listeners)
            folder_of = folder / f"broker-{number + 1}"
            self.brokers.append(EmbeddedKafka(folder_of, own, properties=voters | properties, cluster=name))

    @property
    def servers(self) -> list[EmbeddedKafka]:
        """All servers of the cluster."""
        return [self.controller, *self.brokers]

    @property
    def bootstrap(self) -> str:
        """The addresses of both brokers, without the ways."""
        return ",".join(broker.bootstrap for broker in self.brokers)

    def broker(self, node: int) -> EmbeddedKafka:
        """Returns the broker with this node id."""
        return self.brokers[node - FIRST_NODE]

    def rest(self, node: int) -> int:
        """Returns the node id of the other broker."""
        return 2 * FIRST_NODE + 1 - node


@asynccontextmanager
async def running(cluster: Cluster) -> AsyncIterator[Cluster]:
    """Starts all servers of the cluster, and kills them at the end."""
    async with AsyncExitStack() as stack:
        for server in cluster.servers:
            stack.push_async_callback(asyncio.to_thread, server.kill)
        await asyncio.gather(*(asyncio.to_thread(server.start) for server in cluster.servers))
        yield cluster


async def settled(broker: EmbeddedKafka) -> bool:
    """Returns whether a broker reports every partition led by its preferred leader, with all replicas in sync."""
    return all(
        not code and leader == replicas[0] and len(isr) == len(replicas)
        for code, _, leader, replicas, isr, *_ in await _partitions(broker)
    )


async def leaders(broker: EmbeddedKafka) -> set[int]:
    """Returns the nodes that lead partitions, as a broker reports them."""
    return {leader for _, _, leader, *_ in await _partitions(broker)}


async def _partitions(broker: EmbeddedKafka) -> list[Any]:
    connection = await create_conn(HOST, broker.port)
    try:
        answer = await connection.send(MetadataRequest(None))
    finally:
        connection.close()
    return [partition for *_, found in answer.topics for partition in found]


async def prefer(broker: EmbeddedKafka, topic: str, partition: int, nodes: Sequence[int]) -> None:
    """Asks a broker to make the first of the nodes, which are the partition's replicas, its preferred leader."""
    wanted: list[Any] = [(topic, [(partition, list(nodes), {})], {})]
    connection = await create_conn(HOST, broker.port)
    try:
        answer = await connection.send(AlterPartitionReassignmentsRequest(10_000, wanted, {}))
    finally:
        connection.close()
    assert not answer.error_code and not any(code for _, found, _ in answer.responses for _, code, *_ in found), answer


async def end_error(broker: EmbeddedKafka, topic: str, partition: int) -> int:
    """Returns the error code of a broker that is asked for the end of a partition; 0 if it returns the end."""
    connection = await create_conn(HOST, broker.port)
    try:
        answer = await connection.send(OffsetRequest(-1, 1, [(topic, [(partition, -1)])]))
    finally:
        connection.close()
    ((_, ((_, code, *_),)),) = answer.topics
    return int(code)


async def coordinators(broker: EmbeddedKafka, groups: Iterable[str]) -> dict[str, int]:
    """Returns the node that coordinates each consumer group, for the groups that have one."""
    found = {}
    connection = await create_conn(HOST, broker.port)
    try:
        for group in groups:
            answer = await connection.send(FindCoordinatorRequest(group, 0))
            if not answer.error_code:
                found[group] = answer.coordinator_id
    finally:
        connection.close()
    return found


async def coordinated_by_one(cluster: Cluster, redis: str, stages: Sequence[str]) -> tuple[Settings, int]:
    """Returns settings under which one broker coordinates the groups of these stages, and its node id."""
    while True:
        name = f"one{time.time_ns()}"
        settings = Settings(
            kafka_bootstrap_servers=cluster.bootstrap,
            redis_url=redis,
            sink="none",
            http_address="127.0.0.1:0",
            redis_prefix=name,
            group_prefix=name,
        )
        nodes = set((await coordinated(settings, cluster.brokers[0], stages)).values())
        if len(nodes) == 1:
            return settings, nodes.pop()


async def coordinated(settings: Settings, asked: EmbeddedKafka, stages: Sequence[str]) -> dict[str, int]:
    """Waits until every stage's group has a coordinator; returns their node ids by group."""
    found: dict[str, int] = {}

    async def complete() -> bool:
        found.update(await coordinators(asked, map(settings.consumer_group, stages)))
        return len(found) == len(stages)

    await until(complete, what="each group has a coordinator")
    return found


def freeze(server: ServerProcess) -> None:
    """Stops the process with SIGSTOP: it is silent until it is thawed, and its connections stay open."""
    os.kill(server.pid, signal.SIGSTOP)


def thaw(server: ServerProcess) -> None:
    """Continues the process."""
    os.kill(server.pid, signal.SIGCONT)
