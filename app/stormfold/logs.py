"""The log: events of stormfold and of its libraries in one format on standard error, without credentials.

On a terminal the lines are for people, elsewhere each line is a JSON object.
"""

import json
import logging
import re
import sys
import time
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from typing import Any, TextIO
from urllib.parse import parse_qs, unquote, urlsplit

import structlog
from structlog.stdlib import ProcessorFormatter
from structlog.typing import EventDict, Processor, WrappedLogger

from stormfold.settings import Settings
from stormfold.text import escape_unprintable

HIDDEN = "***"
RECENT_EVENTS: deque[EventDict] = deque(maxlen=50)
"""The latest warnings and errors of this process, without credentials, oldest first."""
NOISY_LOGGERS = ("aiohttp", "aiokafka", "asyncio", "faust", "kubernetes", "mode", "urllib3")
"""Libraries that log each connection, request or service: their events below warning are never shown."""
START_SECONDS = 15.0
"""During this time after the start, lost group coordinators are normal and not shown."""
REPEAT_SECONDS = 60.0
"""Seconds until the same message of a library is shown again: clients of an unreachable broker log it every second."""

_IN_URL = re.compile(r"(?<=://)[^\s/?#@]*:[^\s@]*(?=@)")
_SECRET_NAME = re.compile(r"password|passwd|secret|token|authorization", re.IGNORECASE)


def configure(
    log_format: str = "auto", log_level: str = "info", secrets: Collection[str] = (), stream: TextIO | None = None
) -> None:
    """Sends all events from `log_level` on to `stream`, by default standard error.

    `log_format` is `json`, `console`, or `auto`: console on a terminal. `secrets` are replaced wherever they occur.
    """
    out = stream or sys.stderr
    level = getattr(logging, log_level.upper())
    console = log_format == "console" or (log_format == "auto" and out.isatty())
    every: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        # As text, so that credentials in tracebacks are replaced, too. Local variables are not included.
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *every,
            ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    render: list[Processor] = (
        [_printable, structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
        if console
        else [structlog.processors.EventRenamer("message"), structlog.processors.JSONRenderer()]
    )
    handler = logging.StreamHandler(out)
    handler.addFilter(NoiseFilter())
    handler.setFormatter(
        ProcessorFormatter(
            foreign_pre_chain=every,
            processors=[ProcessorFormatter.remove_processors_meta, _Redact(secrets), _keep, *render],
        )
    )
    logging.basicConfig(handlers=[handler], level=level, force=True)
    logging.captureWarnings(True)
    for name in NOISY_LOGGERS:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))


def secrets_of(settings: Settings) -> set[str]:
    """Every password in the settings, also as it is written in the URL of Redis."""
    return {*settings.secrets, *_in_url(settings.redis_url)} - {""}


def _in_url(url: str) -> Iterator[str]:
    """The password in a URL, before the host or in the query, encoded and decoded."""
    if credentials := _IN_URL.search(url):
        password = credentials[0].partition(":")[2]
        yield from (password, unquote(password))
    for name, values in parse_qs(urlsplit(url).query).items():
        if _SECRET_NAME.search(name):
            yield from values


def _spellings(secret: str) -> Iterator[str]:
    """A secret as it is, and as quoting functions write it."""
    yield secret
    yield repr(secret)[1:-1]
    yield repr(secret.encode())[2:-1]
    yield json.dumps(secret)[1:-1]


class NoiseFilter(logging.Filter):
    """Drops messages of libraries that repeat, or whose level is too high for their meaning."""

    def __init__(self) -> None:
        super().__init__()
        self._shown: dict[str, float] = {}
        self._began = time.monotonic()

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if message.startswith("[^") and record.levelno < logging.WARNING:
            # The base class of services logs each start and stop under our loggers.
            return False
        if record.name.partition(".")[0] not in NOISY_LOGGERS:
            return True
        if "GroupCoordinatorNotAvailableError" in message:
            # Normal for the first group of a new broker, while the offsets topic is created.
            return False
        now = time.monotonic()
        if message.startswith("Marking the coordinator dead") and now - self._began < START_SECONDS:
            # Normal for every group while the broker loads its offsets; later it is a real event.
            return False
        self._shown = {text: at for text, at in self._shown.items() if now - at < REPEAT_SECONDS}
        return self._shown.setdefault(message, now) == now


class _Redact:
    """Replaces credentials anywhere in an event."""

    def __init__(self, secrets: Collection[str]) -> None:
        known = {written for secret in secrets for written in _spellings(secret)}
        longest_first = sorted(known, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, longest_first))) if known else None

    def __call__(self, _: WrappedLogger, __: str, event: EventDict) -> EventDict:
        return {name: self._value(name, value) for name, value in event.items()}

    def _value(self, name: str, value: Any) -> Any:
        match value:
            case _ if _SECRET_NAME.search(name):
                return HIDDEN
            case None | bool() | int() | float():
                return value
            case Mapping():
                return {self._text(str(key)): self._value(str(key), inner) for key, inner in value.items()}
            case list() | tuple() | set():
                return [self._value("", inner) for inner in value]
            case str():
                return self._text(value)
            case _:
                return self._text(repr(value))

    def _text(self, text: str) -> str:
        text = _IN_URL.sub(HIDDEN, text)
        return self._known.sub(HIDDEN, text) if self._known else text


def _keep(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Keeps warnings and errors for the status page."""
    if event["level"] in ("warning", "error", "critical"):
        RECENT_EVENTS.append(dict(event))
    return event


def _printable(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Escapes what could act on a terminal."""
    return {name: _lines(value) if isinstance(value, str) else value for name, value in event.items()}


def _lines(text: str) -> str:
    return "\n".join(map(escape_unprintable, text.split("\n")))
