"""Turns the data of the status page into HTML: one template for each section, everything from outside escaped."""

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from stormfold.group import pattern
from stormfold.health import Problem
from stormfold.text import escape_unprintable

MAX_LENGTH = 300
"""Characters of a text to show: labels can be of any length."""
MAX_PARTITIONS = 24
"""Partitions to show; of more, those with the largest lag."""
SECTIONS = ("moment", "problems", "summary", "forming", "incidents", "recent", "lag", "memory", "log")
_WORD_STARTS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")

Sections = Mapping[str, str]
"""Name → HTML."""


def render_sections(view: object, problems: Sequence[Problem], warnings: Sequence[Problem] = ()) -> Sections:
    """Renders every section of the page. `view` has the attributes of `status.live.View`."""
    return {name: _TEMPLATES[name].render(view=view, problems=problems, warnings=warnings) for name in SECTIONS}


def render_page(sections: Sections) -> str:
    """Renders the whole page around its sections."""
    parts = {name: Markup(part) for name, part in sections.items()}  # noqa: S704 - escaped when they were rendered
    return _PAGE.render(sections=parts, style=_STYLE, script=_SCRIPT)


def _finalize(value: Any) -> Any:
    """Applied to every expression of a template: no text from outside can act, mislead or flood the page."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return escape_unprintable(value[:MAX_LENGTH]) + ("…" if len(value) > MAX_LENGTH else "")


def breakable(text: str) -> Markup:
    """The text with possible line breaks before labels and before words within a name."""
    words = Markup("<wbr>").join(_WORD_STARTS.split(_finalize(text)))
    return words.replace("{", Markup("<wbr>{")).replace(",", Markup(",<wbr>"))


def _clock(time: int, now: int) -> str:
    """A time in UTC, with the date unless it is that of `now` (both ms)."""
    moment, current = (datetime.fromtimestamp(value / 1000, UTC) for value in (time, now))
    return f"{moment:%H:%M:%S}" if moment.date() == current.date() else f"{moment:%Y-%m-%d %H:%M:%S}"


def span(milliseconds: int) -> str:
    """A duration in its two largest units."""
    seconds = milliseconds / 1000
    if abs(seconds) < 60:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds:.0f} s"


def partitions_behind(stages: Mapping[str, Mapping[int, Any]]) -> list[int]:
    """The `MAX_PARTITIONS` partitions with the largest lag over all stages, in order."""
    lag: dict[int, int] = {}
    for partitions in stages.values():
        for partition, progress in partitions.items():
            lag[partition] = lag.get(partition, 0) + progress.lag
    return sorted(sorted(lag, key=lambda partition: -lag[partition])[:MAX_PARTITIONS])


def _details(event: Mapping[str, Any]) -> str:
    """The fields of a logged event, and of a traceback its last line."""
    named = ("timestamp", "level", "logger", "event", "exception")
    fields = [f"{name}={_plain(value)}" for name, value in event.items() if name not in named and value is not None]
    failure = str(event.get("exception", "")).strip().rpartition("\n")[2]
    return ", ".join(filter(None, [*fields, failure]))


def _plain(value: Any) -> str:
    items = [f"{key}: {inner}" for key, inner in value.items()] if isinstance(value, Mapping) else []
    return f"({', '.join(items)})" if items else str(value)


def _file(name: str) -> Markup:
    return Markup((files("stormfold.web") / "templates" / name).read_text())  # noqa: S704 - our own files


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


_ENVIRONMENT = Environment(
    loader=PackageLoader("stormfold.web"), autoescape=True, finalize=_finalize, undefined=StrictUndefined,
    trim_blocks=True, lstrip_blocks=True,
)  # fmt: skip
_ENVIRONMENT.filters |= {
    "number": "{:,}".format, "clock": _clock, "span": span, "breakable": breakable, "pattern": pattern,
    "details": _details, "partitions_behind": partitions_behind,
    "milliseconds": lambda text: round(datetime.fromisoformat(text).timestamp() * 1000),
}  # fmt: skip
_PAGE = _ENVIRONMENT.get_template("page.html")
_TEMPLATES = {name: _ENVIRONMENT.get_template(f"sections/{name}.html") for name in SECTIONS}
_STYLE, _SCRIPT = _file("style.css"), _file("live.js")

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
"""Headers of the page: it loads nothing from elsewhere and runs no script but its own."""
