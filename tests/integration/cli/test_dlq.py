"""Dead letters are listed, printed, and redriven once and unchanged. The audit counts letter and new record."""

import json
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from aiokafka import ConsumerRecord

from stormfold.kafka.client import open_admin
from stormfold.kafka.producer import Producer, ProducerRecord
from stormfold.kafka.topics import MAX_RECORD, create
from stormfold.kafka.topics import topics as wanted_topics
from stormfold.settings import Settings
from tests.support import incident_manifests
from tests.support.alerts import Sent, alert, record
from tests.support.cli import stormfold
from tests.support.pipeline import assert_balanced, drained, publish, read_topic
from tests.support.servers import until
from tests.support.storms import NAME, manifest
from tests.support.workers import Workers, stop

WINDOWS = "windows: {gap: 2s, grace: 1s, slice: 4s}\n"
Headers = list[tuple[str, bytes]]


def origin(topic: str, offset: int) -> Headers:
    """The headers of a dead letter from partition 0."""
    return [("stormfold-reason", b"no labels"), ("stormfold-origin", f"{topic}-0-{offset}".encode())]


async def send_letters(
    settings: Settings, letters: Sequence[tuple[ProducerRecord, Headers]], topic: str | None = None
) -> None:
    """Publishes records to a dead-letter topic, by default that of alerts, in order."""
    producer = Producer(settings, "test")
    try:
        for outgoing, headers in letters:
            await producer.send_record(topic or settings.alerts_dlq_topic, outgoing, headers)
    finally:
        await producer.stop()


async def published(settings: Settings) -> list[ConsumerRecord]:
    """The records of the alerts topic, in order of time."""
    return sorted(await read_topic(settings, settings.alerts_topic), key=lambda found: found.timestamp)


async def test_redriven_records_are_counted_once_more(topics: Settings, tmp_path: Path) -> None:
    """Those that can be parsed after a fix make storms, the others become dead letters again."""
    config = tmp_path / "stormfold.yaml"
    config.write_text(WINDOWS)
    now = time.time_ns() // 1_000_000
    await publish(topics, [Sent(now, b"not yet understood"), Sent(now, b"never understood", 1)])
    first, second = f"{topics.alerts_topic}-0-0", f"{topics.alerts_topic}-1-0"
    # A dead letter of an older version, which this version can parse.
    await send_letters(topics, [(ProducerRecord(None, record(alert("Fixed"))), [("stormfold-origin", first.encode())])])
    with Workers(topics, tmp_path, config) as workers:
        workers.start()
        report = await drained(topics, config)
        assert_balanced(report, alerts=2, dead_letters=2)
        asked = await stormfold(topics, "dlq", "redrive", "--all", stdin="n\n")
        assert asked.returncode == 1 and "Aborted" in asked.stderr
        done = await stormfold(topics, "dlq", "redrive", "--all", "--yes")
        assert done.stdout == (
            f"Published 2 records to {topics.alerts_topic} again;"
            f" those that are still invalid return to {topics.alerts_dlq_topic}.\n"
        )
        report = await drained(topics, config)
        assert_balanced(report, alerts=4)
        (third,) = [found for found in await published(topics) if dict(found.headers).get("stormfold-redriven-from")
                    == second.encode()]  # fmt: skip
    listed = json.loads((await stormfold(topics, "dlq", "-o", "json")).stdout)
    assert {letter["origin"]: letter["redriven"] for letter in listed} == {
        first: True, second: True, f"{topics.alerts_topic}-{third.partition}-{third.offset}": False,
    }  # fmt: skip


async def test_the_counts_match_after_a_mapping_makes_several_alerts_of_a_dead_letter(
    topics: Settings, tmp_path: Path
) -> None:
    """The old record still counts as one dead letter: its alerts are in the record that was published again."""
    config = tmp_path / "stormfold.yaml"
    config.write_text(WINDOWS)
    alarms = json.dumps({"alarms": [{"alarm": f"Alarm{n}"} for n in range(5)]}).encode()
    await publish(topics, [Sent(time.time_ns() // 1_000_000, alarms)])
    with Workers(topics, tmp_path, config) as workers:
        worker = workers.start()
        assert_balanced(await drained(topics, config), alerts=1, dead_letters=1)
        await stop(worker)
        config.write_text(WINDOWS + "mappings: [{name: own, when: alarms, each: alarms, labels: {alertname: alarm}}]\n")
        assert (await stormfold(topics, "dlq", "redrive", "--all", "--yes")).returncode == 0
        workers.start()
        assert_balanced(await drained(topics, config), alerts=6, dead_letters=1, aggregated=5)


async def test_a_redriven_record_has_its_key_value_and_headers(topics: Settings) -> None:
    """One header is added: the origin of its dead letter."""
    own: Headers = [
        ("ce_type", b"x"),
        ("stormfold-reason", b"a header of the producer"),
        ("stormfold-cut", b"another one"),
    ]
    redriven_before = [("stormfold-redriven-from", b"elsewhere-0-0")]
    await send_letters(
        topics,
        [
            (ProducerRecord(b"key", b"\x00\xff raw \x1b[2J"), [*own, *redriven_before, *origin("alerts", 5)]),
            (ProducerRecord(None, None), origin("alerts", 6)),
        ],
    )
    assert (await stormfold(topics, "dlq", "redrive", "--all", "--yes")).returncode == 0
    found = {dict(one.headers)["stormfold-redriven-from"]: one for one in await published(topics)}
    whole, empty = found[b"alerts-0-5"], found[b"alerts-0-6"]
    assert (whole.key, whole.value) == (b"key", b"\x00\xff raw \x1b[2J")
    assert list(whole.headers) == [*own, ("stormfold-redriven-from", b"alerts-0-5")]
    assert empty.value is None and len(found) == 2


async def test_a_record_is_redriven_again_only_if_asked_for(topics: Settings) -> None:
    """Two dead letters of one record are one."""
    twice = (ProducerRecord(None, b"a"), origin("alerts", 1))
    await send_letters(topics, [twice, (ProducerRecord(None, b"b"), origin("alerts", 2)), twice])
    assert "Published 1 rec" in (await stormfold(topics, "dlq", "redrive", "--origin", "alerts-0-1", "--yes")).stdout
    assert "Published 1 rec" in (await stormfold(topics, "dlq", "redrive", "--all", "--yes")).stdout
    nothing = await stormfold(topics, "dlq", "redrive", "--all", "--yes")
    assert nothing.returncode == 0 and "2 records were redriven before" in nothing.stderr
    assert [found.value for found in await published(topics)] == [b"a", b"b"]
    done = await stormfold(topics, "dlq")
    assert done.returncode == 0 and done.stdout.count("yes") == 2
    again = await stormfold(topics, "dlq", "redrive", "--origin", "alerts-0-1", "--again", "--yes")
    assert "Published 1 rec" in again.stdout
    assert sorted(found.value for found in await published(topics)) == [b"a", b"a", b"b"]


async def test_a_record_that_is_too_large_with_its_header_keeps_no_other_from_being_redriven(
    settings: Settings,
) -> None:
    """The others are published once, also those that follow it in its partition. The command names it."""
    async with open_admin(settings) as admin:
        await create(admin, wanted_topics(settings, 1, producer_timestamps=True))
    values = [b"a", b"b", b"x" * MAX_RECORD, b"c", b"d"]
    await send_letters(settings, [(ProducerRecord(None, value), origin("alerts", n)) for n, value in enumerate(values)])
    done = await stormfold(settings, "dlq", "redrive", "--all", "--yes")
    assert done.returncode == 1 and "Published 4 records" in done.stdout
    assert "alerts-0-2 is larger than" in done.stderr and "max.message.bytes" in done.stderr
    again = await stormfold(settings, "dlq", "redrive", "--all", "--yes")
    assert again.returncode == 1 and "Published" not in again.stdout and "alerts-0-2" in again.stderr
    assert sorted(found.value for found in await published(settings)) == [b"a", b"b", b"c", b"d"]


async def test_letters_that_are_not_shown_count_for_the_exit_code(topics: Settings) -> None:
    await send_letters(topics, [(ProducerRecord(None, b"a"), origin("alerts", offset)) for offset in (1, 2)])
    newest = json.loads((await stormfold(topics, "dlq", "--limit", "1", "-o", "json")).stdout)[0]["origin"]
    assert (await stormfold(topics, "dlq", "redrive", "--origin", newest, "--yes")).returncode == 0
    shown = await stormfold(topics, "dlq", "--limit", "1", "-o", "json")
    assert [letter["redriven"] for letter in json.loads(shown.stdout)] == [True]
    assert shown.returncode == 1
    assert (await stormfold(topics, "dlq", "redrive", "--all", "--yes")).returncode == 0
    assert (await stormfold(topics, "dlq", "--limit", "1")).returncode == 0


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ((), 2, "--origin, or all with --all"),
        (("--all", "--origin", "alerts-0-1"), 2, "--origin, or all with --all"),
        (("--origin", "alerts-0-9", "--yes"), 1, "no dead letter with the origin alerts-0-9"),
        (("--all",), 2, "no terminal to ask for confirmation; use --yes"),
        (("--origin", "alerts-0-2", "--yes"), 0, "alerts-0-2 is truncated: the record was too large to be kept"),
    ],
)
async def test_nothing_is_redriven_without_a_choice_and_confirmation(
    topics: Settings, words: tuple[str, ...], code: int, message: str
) -> None:
    cut: Headers = [*origin("alerts", 2), ("stormfold-cut", b"too large")]
    await send_letters(
        topics, [(ProducerRecord(None, b"a"), origin("alerts", 1)), (ProducerRecord(b"alerts-0-2", None), cut)]
    )
    answer = await stormfold(topics, "dlq", "redrive", *words, stdin="")
    assert answer.returncode == code and message in answer.stderr
    assert await published(topics) == []


async def test_the_newest_of_both_topics_are_listed_first(topics: Settings) -> None:
    """Each is on one safe line; the exit code is 1 while some are not redriven."""
    assert (await stormfold(topics, "dlq")).returncode == 0
    evil: Headers = [("stormfold-reason", b"\x1b]0;owned\x07\nsecond line"), ("stormfold-origin", b"alerts-0-150")]
    letters = [(ProducerRecord(None, b"x" * n), origin("alerts", n)) for n in range(150)]
    await send_letters(topics, [*letters, (ProducerRecord(None, "\x1b[2J\u202eevil".encode() + b"\xff" * 100), evil)])
    await send_letters(topics, [(ProducerRecord(b"name", b"{}"), origin("storms", 0))], topics.storms_dlq_topic)
    shown = await stormfold(topics, "dlq", "--limit", "3")
    assert shown.returncode == 1 and shown.stdout.replace("\n", "").isprintable()
    lines = shown.stdout.splitlines()
    assert [line.split()[1] for line in lines[1:]] == ["storms-0-0", "alerts-0-150", "alerts-0-149"]
    whole = json.loads((await stormfold(topics, "dlq", "--limit", "1000", "-o", "json")).stdout)
    assert len(whole) == 152 and [letter["bytes"] for letter in whole[2:]] == [*reversed(range(150))]
    raw = await stormfold(topics, "dlq", "--show", "storms-0-0")
    assert (raw.stdout, raw.returncode) == ("{}", 0)


async def test_a_resource_that_the_sink_rejected_is_written_after_its_redrive(topics: Settings, tmp_path: Path) -> None:
    for found, kind, topic in (
        (manifest(), "storms", topics.storms_dlq_topic),
        (incident_manifests.manifest(), "incidents", topics.incidents_dlq_topic),
    ):
        letter = ProducerRecord(found["metadata"]["name"].encode(), json.dumps(found).encode())
        await send_letters(topics, [(letter, origin(kind, 0))], topic)
    with Workers(topics, tmp_path) as workers:
        workers.start(sink=f"directory:{tmp_path / 'out'}", stages="emit")
        assert (await stormfold(topics, "dlq", "redrive", "--all", "--yes")).returncode == 0
        files = (
            tmp_path / "out" / f"storms.{NAME}.yaml",
            tmp_path / "out/incidents" / f"storms.{incident_manifests.NAME}.yaml",
        )
        await until(lambda: all(file.exists() for file in files), what="both are written")
