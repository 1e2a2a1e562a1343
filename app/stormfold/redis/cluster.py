"""A Redis Cluster: all keys are in one hash slot, so that one primary does the work."""

from collections.abc import Iterable
from typing import Any

from redis.asyncio.cluster import ClusterNode, RedisCluster

SLOT_KEY = "{0}"
"""A key in the hash slot of all keys."""


class SlotClient(RedisCluster):
    """A client that follows the slot of the keys, also for commands that are not about a key.

    Connections come from `connection_class`, which gets `connection_options`.
    """

    def __init__(
        self, hosts: Iterable[tuple[str, int]], connection_class: Any, connection_options: dict[str, Any],
        **options: Any,
    ) -> None:  # fmt: skip
        nodes = [ClusterNode(host, port) for host, port in hosts]
        # It would replace the names by the addresses of nodes, which change where pods start again.
        super().__init__(startup_nodes=nodes, dynamic_startup_nodes=False, **options)
        # RedisCluster creates connections of its own classes only, and shares these options with all nodes of later.
        self.connection_kwargs.update(connection_class=connection_class, **connection_options)
        for node in self.nodes_manager.startup_nodes.values():
            node.connection_class = connection_class
            node.connection_kwargs.update(connection_options)

    async def __aenter__(self) -> "SlotClient":
        # Connects on first use, as the other clients do: then errors are translated.
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def info(self, section: str | None = None, *args: str, **options: Any) -> Any:
        """Information of the primary that has the keys."""
        return await super().info(section, *args, target_nodes=await self._node(), **options)

    async def script_load(self, script: Any) -> Any:
        """Loads a script into the primary that has the keys; other primaries may be away."""
        return await self.execute_command("SCRIPT LOAD", script, target_nodes=await self._node())

    async def _node(self) -> ClusterNode:
        await self.initialize()
        node = self.get_node_from_key(SLOT_KEY)
        assert node is not None
        return node
