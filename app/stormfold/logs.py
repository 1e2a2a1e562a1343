"""The worker's log: stormfold's own lines and the libraries' through one pipeline to standard error, no credentials.

JSON, one object a line, where nobody looks on; readable lines on a terminal.
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
KEPT: deque[EventDict] = deque(maxlen=50)
"""The last warnings and errors of this process, without credentials, oldest first."""
QUIET = ("aiohttp", "aiokafka", "asyncio", "faust", "kubernetes", "mode", "urllib3")
"""Libraries that tell of each connection, request or service: of them only warnings are shown, at any level."""
START_SECONDS = 15.0
"""How long a worker that joins its groups is not told of again and again that their coordinator is elsewhere."""
REPEAT_SECONDS = 60.0
"""A library's line is shown again only after so long: clients of a broker that is away say so every second."""

_IN_URL = re.compile(r"(?<=://)[^\s/?#@]*:[^\s@]*(?=@)")
_SECRET_NAME = re.compile(r"password|passwd|secret|token|authorization", re.IGNORECASE)


def configure(
    log_format: str = "auto", log_level: str = "info", secrets: Collection[str] = (), stream: TextIO | None = None
) -> None:
    """Has everything logged go to `stream`, by default standard error, from `log_level` on.

    `log_format` is `json`, `console`, or `auto`: console on a terminal. Whatever of `secrets` comes up is not shown.
    """
    out = stream or sys.stderr
    level = getattr(logging, log_level.upper())
    console = log_format == "console" or (log_format == "auto" and out.isatty())
    every: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        # As text, so that what is in a traceback is cleaned too. None shows local variables.
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
    handler.addFilter(_Worthwhile())
    handler.setFormatter(
        ProcessorFormatter(
            foreign_pre_chain=every,
            processors=[ProcessorFormatter.remove_processors_meta, _Redact(secrets), _keep, *render],
        )
    )
    logging.basicConfig(handlers=[handler], level=level, force=True)
    logging.captureWarnings(True)
    for name in QUIET:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))


def secrets_of(settings: Settings) -> set[str]:
    """What must never be shown of the settings: every password, also as it stands in the URL of Redis."""
    return {*settings.secrets, *_in_url(settings.redis_url)} - {""}


def _in_url(url: str) -> Iterator[str]:
    """The password of a URL, encoded and decoded, before the host or in the query."""
    if credentials := _IN_URL.search(url):
        password = credentials[0].partition(":")[2]
        yield from (password, unquote(password))
    for name, values in parse_qs(urlsplit(url).query).items():
        if _SECRET_NAME.search(name):
            yield from values


def _spellings(secret: str) -> Iterator[str]:
    """A text as it is, and as it stands inside what other programs have quoted."""
    yield secret
    yield repr(secret)[1:-1]
    yield repr(secret.encode())[2:-1]
    yield json.dumps(secret)[1:-1]


class _Worthwhile(logging.Filter):
    """Leaves out what libraries say too often, or too loud."""

    def __init__(self) -> None:
        super().__init__()
        self._shown: dict[str, float] = {}
        self._began = time.monotonic()

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if message.startswith("[^") and record.levelno < logging.WARNING:
            # The services' base class tells of each start and stop, in our name.
            return False
        if record.name.partition(".")[0] not in QUIET:
            return True
        if "GroupCoordinatorNotAvailableError" in message:
            # Of the first group of a new broker, while the topic for its offsets is made.
            return False
        now = time.monotonic()
        if message.startswith("Marking the coordinator dead") and now - self._began < START_SECONDS:
            # Of every group while the broker loads its offsets; later on it may be news.
            return False
        self._shown = {text: at for text, at in self._shown.items() if now - at < REPEAT_SECONDS}
        return self._shown.setdefault(message, now) == now


class _Redact:
    """Takes credentials out of an event, wherever in it they are."""

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
    """Keeps what a person should see."""
    if event["level"] in ("warning", "error", "critical"):
        KEPT.append(dict(event))
    return event


def _printable(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Nothing of an alert can act on the terminal."""
    return {name: _lines(value) if isinstance(value, str) else value for name, value in event.items()}


def _lines(text: str) -> str:
    return "\n".join(map(escape_unprintable, text.split("\n")))
