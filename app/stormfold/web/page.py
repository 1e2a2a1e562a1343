"""The status page: a snapshot at `/`, and what changes in it at `/events` for those who go on looking.

Drawn once a second while somebody looks, for all who look together; otherwise nothing is asked and nothing drawn.
"""

import asyncio
import base64
import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any, Protocol

import structlog
from aiohttp import web
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from stormfold.health import Health, Problem
from stormfold.text import escape_unprintable
from stormfold.web.view import Partition, Stage, View

log = structlog.get_logger(__name__)

EVERY = 1.0
"""Seconds between two drawings."""
LINGER_SECONDS = 5.0
"""How long it goes on after a snapshot: the next one has what answered late, and costs nothing."""
MOST_VIEWERS = 50
"""Streams at the same time; who comes then has the snapshot."""
WRITE_SECONDS = 10.0
"""How long a viewer may take no data before it is left."""
_WORD_BEGINS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
LONGEST = 300
"""Characters of a text that are shown: labels may be of any length."""
PARTITIONS = 24
"""Partitions that are shown: where there are more, those that are furthest behind."""

Sections = Mapping[str, str]
"""Name → HTML."""


class Live(Protocol):
    """Knows how the pipeline does."""

    async def look(self) -> View:
        """What it knows, after a moment's wait for more; raises nothing."""


OpenLive = Callable[[], AbstractAsyncContextManager[Live]]
"""What is there only while somebody looks."""


class Page:
    """Serves both addresses."""

    def __init__(self, health: Health, open_live: OpenLive) -> None:
        self._health = health
        self._open = open_live
        self._viewers = 0
        self._until = 0.0
        self._drawn: tuple[float, Sections] = (float("-inf"), {})
        """When (monotonic), and what."""
        self._news = asyncio.Event()
        """Set with the next drawing, or when there will be none."""
        self._watching: asyncio.Task[None] | None = None
        self._stopped = False

    async def index(self, _: web.Request) -> web.Response:
        """The page as it is now."""
        self._until = time.monotonic() + LINGER_SECONDS
        if (sections := await self._current()) is None:
            raise web.HTTPServiceUnavailable(text="no status page now: see the worker's log\n")
        return web.Response(text=_page(sections), content_type="text/html", headers=HEADERS)

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events, each a JSON object of what has changed since the one before: section → HTML."""
        if self._viewers >= MOST_VIEWERS:
            raise web.HTTPServiceUnavailable(text="too many are looking: reload the page for a snapshot\n")
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
                sent, sections = sections, await self._following()
        except (ConnectionError, TimeoutError):
            log.debug("a viewer of the status page is gone")
        finally:
            self._viewers -= 1
        return response

    async def stop(self) -> None:
        """Ends every stream; nothing is asked any more."""
        self._stopped = True
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait({self._watching})

    async def _current(self) -> Sections | None:
        """A drawing of this moment; None if there is none."""
        at, sections = self._drawn
        return sections if time.monotonic() - at < 2 * EVERY else await self._following()

    async def _following(self) -> Sections | None:
        """The next drawing; None if there will be none."""
        if self._stopped:
            return None
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch())
        before = self._drawn
        await self._news.wait()
        return None if self._drawn is before else self._drawn[1]

    async def _watch(self) -> None:
        """Draws as long as somebody looks."""
        try:
            async with self._open() as live:
                while self._viewers or time.monotonic() < self._until:
                    sections = draw(await live.look(), self._health.problems())
                    self._drawn = (time.monotonic(), sections)
                    self._tell()
                    await asyncio.sleep(EVERY)
                # Whoever comes while it closes is served by another.
                self._watching = None
        except Exception:
            log.exception("status page failed")
            self._watching = None
        finally:
            self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


def draw(view: View, problems: Sequence[Problem]) -> Sections:
    """Every section of the page."""
    return {name: section.render(view=view, problems=problems) for name, section in _SECTIONS.items()}


def _page(sections: Sections) -> str:
    drawn = {name: Markup(part) for name, part in sections.items()}  # noqa: S704 - escaped when they were drawn
    return _PAGE.render(sections=drawn, style=_STYLE, script=_SCRIPT)


def _shown(value: Any) -> Any:
    """What any expression of a template shows: nothing from outside acts, misleads or floods the page."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return escape_unprintable(value[:LONGEST]) + ("…" if len(value) > LONGEST else "")


def _breakable(text: str) -> Markup:
    """Lines break where labels begin, or words within a name, if they have to."""
    words = Markup("<wbr>").join(_WORD_BEGINS.split(_shown(text)))
    return words.replace("{", Markup("<wbr>{")).replace(",", Markup(",<wbr>"))


def _number(value: float) -> str:
    return f"{value:,}"


def _clock(time: int, now: int) -> str:
    """Time of day in UTC, with the date if that is not today's."""
    moment = datetime.fromtimestamp(time / 1000, UTC)
    today = moment.date() == datetime.fromtimestamp(now / 1000, UTC).date()
    return f"{moment:%H:%M:%S}" if today else f"{moment:%Y-%m-%d %H:%M:%S}"


def _span(milliseconds: int) -> str:
    """A length of time, in the two units that matter."""
    seconds = milliseconds / 1000
    if abs(seconds) < 60:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds:.0f} s"


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"


def _by_partition(stages: Sequence[Stage]) -> list[tuple[int, dict[str, Partition]]]:
    """Partition → stage → where it is; of many, the `PARTITIONS` furthest behind, in order."""
    rows: dict[int, dict[str, Partition]] = {}
    for stage in stages:
        for partition in stage.partitions:
            rows.setdefault(partition.number, {})[stage.name] = partition
    behind = sorted(rows.items(), key=lambda row: -sum(partition.behind for partition in row[1].values()))
    return sorted(behind[:PARTITIONS], key=lambda row: row[0])


def _source(name: str) -> Markup:
    return Markup((files("stormfold.web") / "templates" / name).read_text())  # noqa: S704 - our own files


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


_TEMPLATES = Environment(
    loader=PackageLoader("stormfold.web"), autoescape=True, finalize=_shown, undefined=StrictUndefined,
    trim_blocks=True, lstrip_blocks=True,
)  # fmt: skip
_TEMPLATES.filters |= {
    "number": _number, "clock": _clock, "span": _span, "mib": _mib, "by_partition": _by_partition,
    "breakable": _breakable,
}  # fmt: skip
_PAGE = _TEMPLATES.get_template("page.html")
_SECTIONS = {
    name: _TEMPLATES.get_template(f"sections/{name}.html")
    for name in ("moment", "problems", "summary", "forming", "recent", "lag", "memory", "log")
}
_STYLE, _SCRIPT = _source("style.css"), _source("live.js")

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        f"default-src 'none'; style-src {_hash(_STYLE)}; script-src {_hash(_SCRIPT)}; connect-src 'self';"
        " img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
STREAM_HEADERS = HEADERS | {
    "Content-Type": "text/event-stream",
    # Proxies would keep events back until there are enough of them.
    "X-Accel-Buffering": "no",
}
