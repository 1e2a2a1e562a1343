"""A Redis Cluster of three primaries with a replica each."""

import asyncio
from pathlib import Path

from redis.asyncio import Redis
from redis.crc import key_slot

from stormfold.local.process import HOST, free_port
from stormfold.redis.cluster import SLOT_KEY
from tests.support.redis_servers import OwnRedis, command
from tests.support.servers import until

SLOTS = 16_384
SLOT = key_slot(SLOT_KEY.encode())
"""The slot of all keys."""
NODE_TIMEOUT_MS = 4_000
"""Without an answer for this long, the others take a primary for failed: longer than a disk needs for an fsync."""


class Cluster:
    """Six nodes. `nodes[n + 3]` begins as the replica of `nodes[n]`."""

    def __init__(self, folder: Path) -> None:
        self.nodes = [
            OwnRedis(
                folder / f"node-{n}",
                cluster_enabled="yes",
                cluster_port=str(free_port()),
                cluster_node_timeout=str(NODE_TIMEOUT_MS),
                # A replica takes over also if it has been without its primary for long.
                cluster_replica_validity_factor="0",
                repl_diskless_sync_delay="0",
            )
            for n in range(6)
        ]

    @property
    def url(self) -> str:
        """The URL for workers."""
        return f"redis+cluster://{','.join(node.address for node in self.nodes[:3])}"

    async def start(self) -> None:
        """Starts the nodes, and waits until they agree."""
        await asyncio.gather(*(asyncio.to_thread(node.start) for node in self.nodes))
        for n, node in enumerate(self.nodes[:3]):
            slots = range(n * SLOTS // 3, (n + 1) * SLOTS // 3)
            await self.ask(node, "CLUSTER", "ADDSLOTS", *slots)
        for node in self.nodes[1:]:
            bus = node.options["cluster_port"]
            await self.ask(self.nodes[0], "CLUSTER", "MEET", HOST, node.port, bus)
        await until(self._all_known, 60.0, "the nodes know each other")
        for primary, replica in zip(self.nodes[:3], self.nodes[3:], strict=True):
            await self.ask(replica, "CLUSTER", "REPLICATE", await self.id_of(primary))
        await self.until_ready()

    async def ask(self, node: OwnRedis, *words: str | int) -> str:
        """Sends a command to one node."""
        async with Redis.from_url(node.url, decode_responses=True) as client:
            return str(await command(client, *words))

    async def id_of(self, node: OwnRedis) -> str:
        """Returns the id of a node."""
        return await self.ask(node, "CLUSTER", "MYID")

    async def role(self, node: OwnRedis) -> tuple[str, bool]:
        """Returns `master` or `slave`, and whether the replica or a replica of it is connected."""
        async with Redis.from_url(node.url) as client:
            info = await client.info("replication")
        connected = info["connected_slaves"] > 0 if info["role"] == "master" else info["master_link_status"] == "up"
        return info["role"], connected

    async def owner(self, without: OwnRedis | None = None) -> OwnRedis:
        """Returns the primary of the keys, according to the majority of the nodes that run; `without` is frozen."""
        votes: list[int] = []
        for node in self.nodes:
            if node.running and node is not without:
                async with Redis.from_url(node.url) as client:
                    shards = await command(client, "CLUSTER", "SLOTS")
                votes += [int(shard[2][1]) for shard in shards if int(shard[0]) <= SLOT <= int(shard[1])]
        port = max(set(votes), key=votes.count)
        return next(node for node in self.nodes if node.port == port)

    async def replica_of(self, primary: OwnRedis) -> OwnRedis:
        """Returns the replica of a primary."""
        for node in self.nodes:
            async with Redis.from_url(node.url) as client:
                if (await client.info("replication")).get("master_port") == primary.port:
                    return node
        raise AssertionError(f"{primary.address} has no replica")

    async def until_owned(self, node: OwnRedis, without: OwnRedis | None = None) -> None:
        """Waits until a node has the keys, for the majority too; `without` is frozen."""

        async def owned() -> bool:
            return await self.owner(without) is node

        await until(owned, 60.0, f"{node.address} has the slot of the keys")

    async def until_ready(self) -> None:
        """Waits until each node is connected to its primary or replica, and the cluster serves all slots."""

        async def ready() -> bool:
            for node in self.nodes:
                info = await self.ask(node, "CLUSTER", "INFO")
                if "cluster_state:ok" not in info or not (await self.role(node))[1]:
                    return False
            return True

        await until(ready, 60.0, "the cluster is complete")

    async def move_slot(self, source: OwnRedis, target: OwnRedis) -> int:
        """Moves the slot of the keys, one key after the other; returns their number."""
        await self.begin_move(source, target)
        moved = await self.move_keys(source, target)
        await self.end_move(source, target)
        return moved

    async def begin_move(self, source: OwnRedis, target: OwnRedis) -> None:
        """Announces the move to both."""
        await self.ask(target, "CLUSTER", "SETSLOT", SLOT, "IMPORTING", await self.id_of(source))
        await self.ask(source, "CLUSTER", "SETSLOT", SLOT, "MIGRATING", await self.id_of(target))

    async def move_keys(self, source: OwnRedis, target: OwnRedis, containing: bytes = b"") -> int:
        """Moves keys that contain a text, at a slow pace; returns their number."""
        moved = 0
        async with Redis.from_url(source.url) as client:
            while keys := [
                key for key in await command(client, "CLUSTER", "GETKEYSINSLOT", SLOT, 10_000) if containing in key
            ]:
                await command(client, "MIGRATE", HOST, target.port, keys[0], 0, 5_000)
                moved += 1
                await asyncio.sleep(0.01)
        return moved

    async def end_move(self, source: OwnRedis, target: OwnRedis) -> None:
        """Gives the slot to the target, for all primaries."""
        for node in (target, source, *self.nodes):
            if (await self.role(node))[0] == "master":
                await self.ask(node, "CLUSTER", "SETSLOT", SLOT, "NODE", await self.id_of(target))

    async def _all_known(self) -> bool:
        known = [await self.ask(node, "CLUSTER", "INFO") for node in self.nodes]
        return all("cluster_known_nodes:6" in info and "cluster_state:ok" in info for info in known)

    def stop(self) -> None:
        """Kills everything."""
        for node in self.nodes:
            node.kill()
