"""The audit as a command, and one line for what users get wrong."""

import json
from pathlib import Path

from app.settings import Settings
from tests.support.cli import stormfold
from tests.support.pipeline import Sent, Workers, alert, drained, publish, record

NOW = 1_780_000_000_000
FLOOD = [Sent(NOW + n * 10, record(alert("Flood", pod=f"pod-{n}")), n % 3) for n in range(60)]
GARBAGE = Sent(NOW, b"\x1b[2Jnot an alert", 1)


async def test_audit(topics: Settings, tmp_path: Path) -> None:
    """Exit 1 while alerts have not been taken up, 0 when the books balance."""
    await publish(topics, [*FLOOD, GARBAGE])
    # What somebody else wrote there counts for nothing, and hides nothing.
    await publish(topics.model_copy(update={"alerts_topic": topics.storms_topic}), [Sent(NOW, b"{}", key=b"k")])
    early = await stormfold(topics, "audit", "--wait", "0")
    assert early.returncode == 1 and "not been taken up" in early.stderr
    with Workers(topics, tmp_path) as workers:
        workers.start()
        assert (await drained(topics)).balanced
    proven = await stormfold(topics, "audit", "-o", "json")
    books = json.loads(proven.stdout)[0]
    assert proven.returncode == 0 and books["balanced"]
    assert (books["alerts"], books["storms"], books["dead"]) == (61, 60, 1)
    assert books["foreign"] == 1


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
