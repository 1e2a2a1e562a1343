"""The audit as a command, and errors that every command reports alike."""

import json
import signal
from pathlib import Path

from stormfold.audit import audit
from stormfold.config import load
from stormfold.redis.client import connect
from stormfold.redis.close import OpenBuckets
from stormfold.redis.store import Store
from stormfold.redis.versions import State, StateVersion
from stormfold.settings import Settings
from tests.support.alerts import Sent, alert, record
from tests.support.cli import stormfold
from tests.support.pipeline import assert_balanced, books, drained, publish, read_topic
from tests.support.workers import Workers

NOW = 1_780_000_000_000
FLOOD = [Sent(NOW + n * 10, record(alert("Flood", pod=f"pod-{n}")), n % 3) for n in range(60)]
LATE = [Sent(NOW + n * 10, record(alert("Late", pod=f"pod-{n}")), n) for n in range(2)]
GARBAGE = Sent(NOW, b"\x1b[2Jnot an alert", 1)


async def test_audit_fails_until_every_alert_is_counted(topics: Settings, tmp_path: Path) -> None:
    await publish(topics, [*FLOOD, GARBAGE])
    # A record that stormfold did not write is not counted.
    storms = topics.model_copy(update={"alerts_topic": topics.storms_topic})
    await publish(storms, [Sent(NOW, b"{}", key=b"k")])
    early = await stormfold(topics, "audit", "--wait", "0")
    assert early.returncode == 1 and "not been processed" in early.stderr
    with Workers(topics, tmp_path) as workers:
        workers.start()
        assert_balanced(await drained(topics))
    # Nor is a copy under another key.
    copies = [Sent(NOW, record.value, key=b"copy") for record in await read_topic(topics, topics.storms_topic)]
    await publish(storms, copies)
    proven = await stormfold(topics, "audit", "-o", "json")
    report = json.loads(proven.stdout)[0]
    assert proven.returncode == 0 and report["balanced"]
    assert (report["alerts"], report["aggregated"], report["dead_letters"]) == (61, 60, 1)
    assert report["foreign"] == len(copies) + 1 == 3


async def test_alerts_that_arrive_while_others_are_folded_are_not_missing(topics: Settings, tmp_path: Path) -> None:
    """Nobody waits for them to be folded, but they are in the topic when it is counted."""
    await publish(topics, FLOOD)
    with Workers(topics, tmp_path) as workers:
        worker = workers.start()

        class Interrupted(Store):
            """The worker does not fold the late alerts until its open groups were read once."""

            arrived = False

            async def load(self) -> State | None:
                if not self.arrived:
                    self.arrived = True
                    # Marks, too: a frozen worker would not fold what this audit waits for.
                    assert (await books(topics)).balanced
                    worker.send_signal(signal.SIGSTOP)
                    await publish(topics, LATE)
                return await super().load()

            async def open_buckets(self, version: StateVersion) -> list[OpenBuckets]:
                found = await super().open_buckets(version)
                worker.send_signal(signal.SIGCONT)
                return found

        async with connect(topics) as redis:
            report = await audit(topics, load(None), Interrupted(redis, topics.redis_prefix), wait=60)
    assert (report.alerts, report.unread, report.balanced) == (len(FLOOD) + len(LATE), 0, True), report


async def test_dead_letters_with_an_invalid_origin_are_foreign(topics: Settings, tmp_path: Path) -> None:
    """They are reported and not counted."""
    await publish(topics, [*FLOOD, GARBAGE])
    with Workers(topics, tmp_path) as workers:
        workers.start()
        assert_balanced(await drained(topics))
    alerts = topics.alerts_topic
    invalid = [
        f"{alerts}-0-abc", f"{alerts}-0-\N{ARABIC-INDIC DIGIT THREE}", f"{alerts}-x-0",
        f"{alerts}-0-{'9' * 5000}", alerts, f"{alerts}-99-0", f"{alerts}-0-999", f" {alerts}-0-0", "elsewhere-0-0", "",
    ]  # fmt: skip
    dead = topics.model_copy(update={"alerts_topic": topics.alerts_dlq_topic})
    letters = [Sent(NOW, b"?", headers=(("stormfold-origin", origin.encode()),)) for origin in invalid]
    marked = Sent(NOW, None, key=b"mark", headers=(("stormfold-redriven", f"{alerts}-1-20".encode()),))
    await publish(dead, [*letters, Sent(NOW, b"?", headers=(("stormfold-origin", None),)), Sent(NOW, b"?"), marked])
    proven = await stormfold(topics, "audit", "-o", "json")
    report = json.loads(proven.stdout)[0]
    assert (proven.returncode, proven.stderr) == (0, "")
    assert (report["balanced"], report["dead_letters"], report["foreign"]) == (True, 1, len(invalid) + 2)
    printed = (await stormfold(topics, "audit")).stdout
    assert (
        "61 alerts and invalid records = 60 in 1 storm + 1 dead letter. 12 records in storms or dead letters were not"
        " written by stormfold." in printed
    )


async def test_a_missing_broker_or_topic_is_one_line_with_a_hint(topics: Settings) -> None:
    nowhere = topics.model_copy(update={"kafka_bootstrap_servers": "127.0.0.1:1"})
    for words in (("storms",), ("audit",), ("dlq",)):
        shown = await stormfold(nowhere, *words)
        assert shown.returncode == 1 and "Traceback" not in shown.stderr
        assert "no Kafka broker answers at 127.0.0.1:1" in shown.stderr
    missing = topics.model_copy(update={"storms_topic": "no-such-topic"})
    shown = await stormfold(missing, "storms")
    assert shown.returncode == 1 and "stormfold topics --create" in shown.stderr
