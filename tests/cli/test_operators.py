"""What operators type against a running pipeline: storms, status, audit, dead; and what they see when it is down."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import yaml

from app.settings import Settings
from tests.support.pipeline import Sent, Workers, alert, drained, publish, record
from tests.support.servers import environment

NOW = 1_780_000_000_000
FLOOD = [Sent(NOW + n * 10, record(alert("Flood", pod=f"pod-{n}")), n % 3) for n in range(60)]
LONE = Sent(NOW, record(alert("Lone\x1b[31m", pod="pod")))
GARBAGE = Sent(NOW, b"\x1b[2Jnot an alert", 1)


async def stormfold(settings: Settings, *words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Runs the command against the test's servers, without a terminal."""
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", "from app.cli import main; main()", *words],
        env=os.environ | environment(settings),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def test_storms(topics: Settings, tmp_path: Path) -> None:
    """Storms as a table, as manifests that can be applied, by class; nothing of an alert reaches the terminal raw."""
    assert "No storms yet" in (await stormfold(topics, "storms")).stderr
    await publish(topics, [*FLOOD, LONE])
    with Workers(topics, tmp_path) as workers:
        workers.start()
        assert (await drained(topics)).balanced
    shown = await stormfold(topics, "storms")
    assert shown.returncode == 0 and "Flood" in shown.stdout and "Lone" not in shown.stdout
    everything = await stormfold(topics, "storms", "--class", "all")
    assert "Lone" in everything.stdout and "\x1b" not in everything.stdout
    listed = yaml.safe_load((await stormfold(topics, "storms", "-o", "yaml")).stdout)
    assert [item["spec"]["alertCount"] for item in listed["items"]] == [60]
    limited = json.loads((await stormfold(topics, "storms", "--class", "all", "--limit", "1", "-o", "json")).stdout)
    assert [item["spec"]["groupLabels"]["alertname"] for item in limited["items"]] == ["Flood"]


async def test_status(topics: Settings, tmp_path: Path) -> None:
    """Lag before and after a worker has been there; horizon and memory while it is."""
    await publish(topics, FLOOD)
    before = json.loads((await stormfold(topics, "status", "-o", "json")).stdout)
    assert sum(row["records"] for row in before["lag"] if row["stage"] == "intake") == 60
    assert before["epoch"] == {"number": None} and before["redis"]["used_bytes"] > 0
    with Workers(topics, tmp_path) as workers:
        workers.start()
        assert (await drained(topics)).balanced
        during = json.loads((await stormfold(topics, "status", "-o", "json")).stdout)
        assert during["epoch"]["number"] == 1 and during["epoch"]["horizon_delay_seconds"] < 10
        assert sum(row["records"] for row in during["lag"] if row["stage"] in ("intake", "emit")) == 0
    shown = await stormfold(topics, "status")
    assert shown.returncode == 0 and "intake   caught up" in shown.stdout and "MiB used" in shown.stdout


async def test_status_with_redis_down(topics: Settings) -> None:
    """Kafka's part is shown all the same; the exit code says that something is wrong."""
    down = topics.model_copy(update={"redis": "redis://127.0.0.1:1/0"})
    await publish(topics, FLOOD)
    shown = await stormfold(down, "status", "-o", "json")
    status = json.loads(shown.stdout)
    assert shown.returncode == 1
    assert sum(row["records"] for row in status["lag"]) == 60
    assert [trouble["part"] for trouble in status["troubles"]] == ["redis"]


async def test_audit(topics: Settings, tmp_path: Path) -> None:
    """Exit 1 while alerts have not been taken up, 0 when the books balance."""
    await publish(topics, [*FLOOD, GARBAGE])
    early = await stormfold(topics, "audit", "--wait", "0")
    assert early.returncode == 1 and "not been taken up" in early.stderr
    with Workers(topics, tmp_path) as workers:
        workers.start()
        assert (await drained(topics)).balanced
    proven = await stormfold(topics, "audit", "-o", "json")
    books = json.loads(proven.stdout)[0]
    assert proven.returncode == 0 and books["balanced"]
    assert (books["alerts"], books["storms"], books["dead"]) == (61, 60, 1)


async def test_dead_letters(topics: Settings, tmp_path: Path) -> None:
    """Listed with their reason, shown byte by byte, published again once; the books balance all along."""
    with Workers(topics, tmp_path) as workers:
        workers.start()
        await publish(topics, [*FLOOD, GARBAGE])
        assert (await drained(topics)).balanced
        listed = await stormfold(topics, "dead")
        assert listed.returncode == 1 and "\x1b" not in listed.stdout and "not an alert" in listed.stdout
        (letter,) = json.loads((await stormfold(topics, "dead", "-o", "json")).stdout)
        origin = letter["origin"]
        assert origin.startswith(f"{topics.alerts_topic}-1-") and letter["reason"]
        assert (await stormfold(topics, "dead", "--show", origin)).stdout == "\x1b[2Jnot an alert"
        assert "no dead letter" in (await stormfold(topics, "dead", "--show", "alerts-9-9")).stderr
        again = await stormfold(topics, "dead", "redrive", "--origin", origin, stdin="y\n")
        assert again.returncode == 0 and "Published 1" in again.stdout
        assert "Nothing to publish" in (await stormfold(topics, "dead", "redrive", "--origin", origin, "--yes")).stderr
        books = await drained(topics)
        assert books.balanced and books.dead == 2 and books.alerts == 62


async def test_one_line_for_what_users_get_wrong(topics: Settings) -> None:
    """No broker, no topic: one line that says so, one that says what to do, no traceback."""
    nowhere = topics.model_copy(update={"kafka": "127.0.0.1:1"})
    for words in (("storms",), ("audit",), ("dead",)):
        shown = await stormfold(nowhere, *words)
        assert shown.returncode == 1 and "Traceback" not in shown.stderr
        assert "no Kafka broker answers at 127.0.0.1:1" in shown.stderr
    missing = topics.model_copy(update={"storms_topic": "no-such-topic"})
    shown = await stormfold(missing, "storms")
    assert shown.returncode == 1 and "stormfold topics --create" in shown.stderr
