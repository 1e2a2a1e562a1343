"""The worker's HTTP server: depends on neither Kafka nor Redis, so that it can say that they are away."""

import time
from dataclasses import asdict
from datetime import UTC, datetime

from aiohttp import web
from prometheus_client.aiohttp import make_aiohttp_handler

from stormfold import metrics
from stormfold.errors import ActionRequired
from stormfold.health import Health
from stormfold.web.page import OpenLive, Page
from stormfold.web.state import Feeds, State

NOT_KEPT = {"Cache-Control": "no-store"}


class Web:
    """Listens on `address`, host and port, from `start` to `stop`; with `open_live` there is a status page.

    `sink` is where the worker writes storms; None if it writes none.
    """

    def __init__(
        self,
        address: tuple[str, int],
        health: Health,
        feeds: Feeds,
        open_live: OpenLive | None = None,
        sink: str | None = None,
    ) -> None:
        self._address = address
        self._feeds = feeds
        self._sink = sink
        self._state = State(health, feeds)
        self._page = None if open_live is None else Page(self._state, open_live)
        self._expose = make_aiohttp_handler(metrics.REGISTRY)
        self._runner: web.AppRunner | None = None

    @property
    def port(self) -> int:
        """The port that it listens on, also where any was asked for; only after `start`."""
        assert self._runner is not None
        return int(self._runner.addresses[0][1])

    async def start(self) -> None:
        """Raises `ActionRequired` if it can't listen there."""
        app = web.Application()
        app.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics),
            ]
        )
        if self._page is not None:
            app.add_routes([web.get("/", self._page.index), web.get("/events", self._page.events)])
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        host, port = self._address
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            await runner.cleanup()
            raise ActionRequired(
                f"cannot listen on {host}:{port}: {error.strerror}",
                "set STORMFOLD_HTTP_ADDRESS to another address; port 0 takes any that is free",
            ) from error
        self._runner = runner

    async def end_page(self) -> None:
        """Ends the status page, whoever looks at it; the rest goes on."""
        if self._page is not None:
            await self._page.stop()

    async def stop(self) -> None:
        """Lets go of the port."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _healthz(self, _: web.Request) -> web.Response:
        dead = self._state.dead()
        return web.json_response({"healthy": not dead, "dead": dead}, status=503 if dead else 200, headers=NOT_KEPT)

    async def _readyz(self, _: web.Request) -> web.Response:
        problems = [
            {**asdict(problem), "since": datetime.fromtimestamp(problem.since, UTC).isoformat(timespec="seconds")}
            for problem in self._state.problems()
        ]
        return web.json_response(
            {"ready": not problems, "problems": problems, "sink": self._sink},
            status=503 if problems else 200,
            headers=NOT_KEPT,
        )

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        # Partitions come and go with rebalances: those of other workers must not stand here with their last value.
        by_partition = (metrics.LAG, metrics.POSITION, metrics.EVENT_TIME_LAG)
        for gauge in (*by_partition, metrics.COMPONENT_UNHEALTHY):
            gauge.clear()
        now = time.time()
        for feed in self._feeds():
            ages = {partition: now - reached / 1000 for partition, reached in feed.reached.items()}
            for gauge, values in zip(by_partition, (feed.lag, feed.done, ages), strict=True):
                for partition in values.keys() & feed.assigned():
                    gauge.labels(feed.name, partition).set(values[partition])
            # What was lost stays lost, whoever reads the partition now.
            for partition, records in feed.lost.items():
                metrics.LOST.labels(feed.name, partition).set(records)
        problems = self._state.problems()
        metrics.READY.set(not problems)
        for problem in problems:
            metrics.COMPONENT_UNHEALTHY.labels(problem.component).set(1)
        return await self._expose(request)
