"""The format of the log, and what is never in it."""

import io
import json
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog

from stormfold import logs
from stormfold.settings import Settings

PASSWORDS = {"kafka_sasl_password": "hunter2 'n' \"gatherer\"", "redis_password": "s\u00e9same\\open"}
URL = "redis://worker:p%40ss%2Fword@cache.example:6379/0"

Logged = Callable[..., list[dict[str, Any]]]


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Leaves the process' logging as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in logs.NOISY_LOGGERS}
    # Else they would be closed.
    root.handlers.clear()
    logs.RECENT_EVENTS.clear()
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)
    logging.captureWarnings(False)
    structlog.reset_defaults()


def configured(log_format: str = "json", log_level: str = "info", settings: Settings | None = None) -> io.StringIO:
    """Sets the log up; where it goes to."""
    stream = io.StringIO()
    logs.configure(log_format, log_level, logs.secrets_of(settings or Settings()), stream)
    return stream


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    """What was logged, each line one JSON object."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_events_of_stormfold_and_of_libraries_have_one_format() -> None:
    stream = configured()
    structlog.get_logger("stormfold.x").info("folded\nmuch", alerts=3, places={"a": [1, 2]})
    logging.getLogger("aiokafka.x").warning("lost %s", "it")
    try:
        raise ValueError("broken")
    except ValueError:
        structlog.get_logger("stormfold.x").exception("failed")
    ours, theirs, failed = lines(stream)
    assert (ours["message"], ours["level"], ours["logger"]) == ("folded\nmuch", "info", "stormfold.x")
    assert (ours["alerts"], ours["places"]) == (3, {"a": [1, 2]})
    assert (theirs["message"], theirs["level"], theirs["logger"]) == ("lost it", "warning", "aiokafka.x")
    assert failed["exception"].endswith("ValueError: broken") and failed["level"] == "error"
    assert ours.keys() - {"alerts", "places"} == theirs.keys()


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_credentials_are_never_logged(log_format: str) -> None:
    """Neither in texts, values, URLs and tracebacks nor in messages of libraries."""
    settings = Settings(redis_url=URL, kafka_security_protocol="SASL_SSL", kafka_sasl_username="worker", **PASSWORDS)
    stream = configured(log_format, settings=settings)
    secrets = [*PASSWORDS.values(), "p%40ss%2Fword", "p@ss/word"]
    log = structlog.get_logger("stormfold.x")
    for secret in secrets:
        log.warning(f"text {secret} text", value=secret, inside={"a": [(secret,)]}, error=ValueError(secret))
        logging.getLogger("aiokafka").error("refused: %s %r", secret, {"password": secret})
        try:
            raise ValueError(f"with {secret}")
        except ValueError:
            log.exception("failed")
    log.warning("no such host", url=URL)
    log.warning(
        "unknown to us", url="https://someone:else@host/", api_token="abc", headers={"Authorization": "Basic x"}
    )
    assert stream.getvalue().count(logs.HIDDEN) >= 7 * len(secrets) <= str(logs.RECENT_EVENTS).count(logs.HIDDEN)
    shown = stream.getvalue() + str(logs.RECENT_EVENTS)
    for secret in [*secrets, "else", "abc", "Basic"]:
        for written in (secret, json.dumps(secret)[1:-1], repr(secret)[1:-1]):
            assert written not in shown
    assert "cache.example" in shown and "host" in shown


def test_control_characters_are_escaped_on_a_terminal() -> None:
    """Readable text of any language is not."""
    stream = configured("console")
    structlog.get_logger("stormfold.x").warning("dead \x1b[2J letter", reason="\u202eGRP\x07\r", name="日本語 é")
    logging.getLogger("aiokafka").error("gone \x1b]0;title\x07")
    shown = stream.getvalue()
    own_colours = shown.replace("\x1b[0m", "")
    for code in range(1, 50):
        own_colours = own_colours.replace(f"\x1b[{code}m", "")
    assert all(character.isprintable() or character == "\n" for character in own_colours)
    assert r"\x1b[2J" in shown and r"\u202e" in shown and "日本語" in shown


def test_a_terminal_gets_text_and_a_pipe_gets_json() -> None:

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    logs.configure("auto", stream=screen)
    structlog.get_logger("stormfold.x").info("hello")
    assert "hello" in screen.getvalue() and not screen.getvalue().startswith("{")
    stream = configured("auto")
    structlog.get_logger("stormfold.x").info("hello")
    assert lines(stream)[0]["message"] == "hello"


def test_the_level_applies_to_stormfold_and_libraries_log_only_warnings() -> None:
    stream = configured(log_level="debug")
    for name in ("stormfold.x", "aiokafka.y", "faust.z"):
        logging.getLogger(name).debug("debug")
        logging.getLogger(name).warning(f"warning of {name}")
    structlog.get_logger("stormfold.x").debug("ours")
    assert [line["message"] for line in lines(stream)] == [
        "debug", "warning of stormfold.x", "warning of aiokafka.y", "warning of faust.z", "ours",
    ]  # fmt: skip
    stream = configured(log_level="error")
    structlog.get_logger("stormfold.x").warning("less")
    logging.getLogger("aiokafka.y").warning("less")
    assert stream.getvalue() == ""


def test_repeated_messages_of_libraries_are_shown_once_a_minute() -> None:
    stream = configured()
    for _ in range(5):
        logging.getLogger("aiokafka").error("Unable connect to %s", "127.0.0.1:9")
        structlog.get_logger("stormfold.x").warning("ours")
    logging.getLogger("aiokafka").error("Unable connect to %s", "127.0.0.1:10")
    logging.getLogger("aiokafka.consumer.group_coordinator").error(
        "Group Coordinator Request failed: %s", "[Error 15] GroupCoordinatorNotAvailableError"
    )
    for _ in range(2):
        logging.getLogger("aiokafka.consumer.group_coordinator").warning(
            "Marking the coordinator dead (node %s)for group %s.", 1, "stormfold-fold"
        )
    logging.getLogger("stormfold.kafka.consumer").info("[^-Ingest]: Starting...")
    messages = [line["message"] for line in lines(stream)]
    assert messages.count("ours") == 5
    assert [m for m in messages if m != "ours"] == ["Unable connect to 127.0.0.1:9", "Unable connect to 127.0.0.1:10"]


def test_a_coordinator_lost_after_the_start_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = configured()
    later = time.monotonic() + logs.START_SECONDS
    monkeypatch.setattr(time, "monotonic", lambda: later)
    logging.getLogger("aiokafka.consumer.group_coordinator").warning(
        "Marking the coordinator dead (node 1)for group g."
    )
    assert [line["message"] for line in lines(stream)] == ["Marking the coordinator dead (node 1)for group g."]


def test_the_latest_warnings_and_errors_are_kept() -> None:
    configured()
    log = structlog.get_logger("stormfold.x")
    for number in range(100):
        log.info("event", number=number)
        log.warning("odd", number=number)
    logging.getLogger("aiokafka").error("gone")
    kept = [(event["level"], event["event"], event.get("number")) for event in logs.RECENT_EVENTS]
    most = logs.RECENT_EVENTS.maxlen or 0
    assert kept == [*(("warning", "odd", number) for number in range(101 - most, 100)), ("error", "gone", None)]
