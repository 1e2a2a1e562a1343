"""The worker's HTTP server. It needs neither Kafka nor Redis, so that it can report that they do not answer."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from aiohttp import web
from prometheus_client.aiohttp import make_aiohttp_handler

from stormfold import metrics
from stormfold.errors import ActionRequired
from stormfold.health import Health, Member, Problem
from stormfold.web.page import OpenLive, Page

NO_STORE = {"Cache-Control": "no-store"}

_Values = dict[tuple[str, ...], float]
"""Values of a gauge, by those of its labels."""


class Web:
    """Listens on `address` (host, port) from `start` to `stop`. With `open_live` it serves a status page.

    `sink` is where the worker writes storms; None if it writes none.
    """

    def __init__(
        self, address: tuple[str, int], health: Health, open_live: OpenLive | None = None, sink: str | None = None
    ) -> None:
        self._address = address
        self._health = health
        self._sink = sink
        self._page = None if open_live is None else Page(health, open_live)
        self._expose = make_aiohttp_handler(metrics.REGISTRY)
        self._runner: web.AppRunner | None = None

    @property
    def port(self) -> int:
        """The port in use, also if port 0 was asked for; only after `start`."""
        assert self._runner is not None
        return int(self._runner.addresses[0][1])

    async def start(self) -> None:
        """Starts listening. Raises `ActionRequired` if the address cannot be used."""
        app = web.Application()
        routes = {"/healthz": self._healthz, "/readyz": self._readyz, "/metrics": self._metrics}
        if self._page is not None:
            routes |= {"/": self._page.index, "/events": self._page.events}
        app.add_routes([web.get(path, handler) for path, handler in routes.items()])
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        host, port = self._address
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            await runner.cleanup()
            raise ActionRequired(
                f"cannot listen on {host}:{port}: {error.strerror}",
                "set STORMFOLD_HTTP_ADDRESS to another address; port 0 takes any free port",
            ) from error
        self._runner = runner

    async def end_page(self) -> None:
        """Ends the status page and its streams; health and metrics remain."""
        if self._page is not None:
            await self._page.stop()

    async def stop(self) -> None:
        """Stops listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _healthz(self, _: web.Request) -> web.StreamResponse:
        stale = self._health.stale()
        body = {"healthy": not stale, "stale": stale}
        return web.json_response(body, status=503 if stale else 200, headers=NO_STORE)

    async def _readyz(self, _: web.Request) -> web.StreamResponse:
        problems, warnings = _described(self._health.problems()), _described(self._health.warnings.values())
        body = {"ready": not problems, "problems": problems, "warnings": warnings, "sink": self._sink}
        return web.json_response(body, status=503 if problems else 200, headers=NO_STORE)

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        now, problems, by_lease = time.time(), self._health.problems(), self._health.read_by_lease
        lags: _Values = {(stage, str(p)): lag[p] for stage, (lag, _) in by_lease.items() for p in lag}
        positions: _Values = {(stage, str(p)): reached[p] for stage, (_, reached) in by_lease.items() for p in reached}
        metrics.LAG_RECORDS.values = lags | self._by_partition(lambda member: member.lag)
        metrics.POSITION.values = positions | self._by_partition(lambda member: member.positions)
        metrics.LAG_UNSTABLE_RECORDS.values = self._by_partition(lambda member: member.unstable_lag)
        metrics.EVENT_TIME_LAG_SECONDS.values = {
            labels: now - reached / 1000
            for labels, reached in self._by_partition(lambda member: member.event_times).items()
        }
        metrics.READY.values = {(): float(not problems)}
        metrics.COMPONENT_UNHEALTHY.values = {(problem.component,): 1.0 for problem in problems}
        return await self._expose(request)

    def _by_partition(self, values: Callable[[Member], Mapping[int, int]]) -> _Values:
        """Stage and partition → value, of all assigned partitions."""
        return {
            (member.name, str(partition)): found[partition]
            for member in self._health.members()
            for found in (values(member),)
            for partition in sorted(found.keys() & member.assigned())
        }


def _described(problems: Iterable[Problem]) -> list[dict[str, Any]]:
    """Problems as `/readyz` shows them."""
    return [
        {**asdict(problem), "since": datetime.fromtimestamp(problem.since, UTC).isoformat(timespec="seconds")}
        for problem in problems
    ]
