"""Serves the status page: a snapshot at `/`, and changed sections as server-sent events at `/events`.

While somebody looks, it is rendered once a second for all viewers together; otherwise nothing is read or rendered.
"""

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import structlog
from aiohttp import web

from stormfold.health import Health
from stormfold.web.render import HEADERS, Sections, render_page, render_sections

log = structlog.get_logger(__name__)

INTERVAL = 1.0
"""Seconds between two renderings."""
LINGER_SECONDS = 5.0
"""Rendering continues this long after a snapshot: the next one includes slow answers, and costs nothing."""
MAX_VIEWERS = 50
"""Streams at the same time. More viewers get the snapshot only."""
WRITE_SECONDS = 10.0
"""A viewer that reads nothing for this long is disconnected."""
STREAM_HEADERS = HEADERS | {
    "Content-Type": "text/event-stream",
    # Otherwise proxies would hold events back.
    "X-Accel-Buffering": "no",
}


class Live(Protocol):
    """Reads the state of the pipeline."""

    async def look(self) -> object:
        """Returns the data of the page (`status.live.View`); waits briefly for servers. Raises nothing."""


OpenLive = Callable[[], AbstractAsyncContextManager[Live]]
"""Opens the connections that are needed while somebody looks."""


class Page:
    """The handlers of both addresses, and the task that renders."""

    def __init__(self, health: Health, open_live: OpenLive) -> None:
        self._health = health
        self._open = open_live
        self._viewers = 0
        self._until = 0.0
        """Rendering continues until this monotonic time even without viewers."""
        self._rendered: tuple[float, Sections] = (float("-inf"), {})
        """Monotonic time, and the sections."""
        self._news = asyncio.Event()
        """Set at the next rendering, and when a task ends."""
        self._task: asyncio.Task[None] | None = None
        """Renders for all viewers; None if a viewer that arrives needs a new one."""
        self._stopped = False

    async def index(self, _: web.Request) -> web.StreamResponse:
        """Responds with the page as it is now."""
        self._until = time.monotonic() + LINGER_SECONDS
        if (sections := await self._current()) is None:
            raise web.HTTPServiceUnavailable(text="the status page failed: see the log of the worker\n")
        return web.Response(text=render_page(sections), content_type="text/html", headers=HEADERS)

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Streams JSON objects with the sections that changed since the one before: name → HTML."""
        if self._viewers >= MAX_VIEWERS:
            raise web.HTTPServiceUnavailable(text="too many viewers: reload the page for a snapshot\n")
        response = web.StreamResponse(headers=STREAM_HEADERS)
        self._viewers += 1
        try:
            sections = await self._current()
            sent: Sections = {}
            await response.prepare(request)
            while sections is not None and request.transport is not None and not request.transport.is_closing():
                changed = {name: part for name, part in sections.items() if sent.get(name) != part}
                async with asyncio.timeout(WRITE_SECONDS):
                    await response.write(f"data: {json.dumps(changed)}\n\n".encode())
                sent, sections = sections, await self._next()
        except (ConnectionError, TimeoutError):
            log.debug("a viewer of the status page disconnected")
        finally:
            self._viewers -= 1
        return response

    async def stop(self) -> None:
        """Ends every stream and stops rendering."""
        self._stopped = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _current(self) -> Sections | None:
        """The sections as of now; None if they cannot be rendered."""
        at, sections = self._rendered
        return sections if time.monotonic() - at < 2 * INTERVAL else await self._next()

    async def _next(self) -> Sections | None:
        """The next rendering; None if there will be none."""
        if self._stopped:
            return None
        if self._task is None:
            self._task = asyncio.create_task(self._render())
        before = self._rendered
        # An earlier task also sets it when it ends, without a rendering.
        while self._rendered is before and self._task is not None and not self._stopped:
            await self._news.wait()
        return None if self._rendered is before else self._rendered[1]

    async def _render(self) -> None:
        """Renders while somebody looks."""
        try:
            async with self._open() as live:
                while self._viewers or time.monotonic() < self._until:
                    sections = render_sections(
                        await live.look(), self._health.problems(), list(self._health.warnings.values())
                    )
                    self._rendered = (time.monotonic(), sections)
                    self._notify()
                    await asyncio.sleep(INTERVAL)
                # A viewer that arrives while this one closes gets a new task.
                self._task = None
        except Exception:
            log.exception("status page failed")
            if self._task is asyncio.current_task():
                self._task = None
        finally:
            self._notify()

    def _notify(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
