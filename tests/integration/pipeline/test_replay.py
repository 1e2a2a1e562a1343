"""A past range folded again: the same storms come back while others are open, and another configuration is tried."""

import asyncio
import json
import time
from collections import Counter
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiokafka import TopicPartition
from aiokafka.admin import RecordsToDelete

from stormfold.config import Config, load
from stormfold.in_memory import InMemoryFold
from stormfold.kafka.client import open_admin
from stormfold.kafka.committed import CommitMetadata, newest_closed, newest_metadata, read_committed
from stormfold.kafka.producer import Producer, ProducerRecord
from stormfold.kafka.reader import open_reader
from stormfold.manifest import from_manifest
from stormfold.replay.log import Range, Span, open_range, read_stamps, storms, understood
from stormfold.replay.restore import restore
from stormfold.settings import Settings
from stormfold.storm import Aggregate
from tests.integration.pipeline.test_faults import incident, live
from tests.support import pipeline
from tests.support.alerts import Sent, record
from tests.support.cli import stormfold
from tests.support.model import batch_model, counts_of, keyed_alerts
from tests.support.pipeline import assert_balanced, books, drained, publish, read_topic
from tests.support.servers import until
from tests.support.workers import Workers

TUNED = """
windows: {gap: 3s, grace: 0s, slice: 6s}
routes:
  - {name: few, match: 'alertname=~"Group[1-3]"', group_by: [alertname], storm_when: {alerts: 25, resources: 25}}
  - {name: pods, match: 'pod!="pod-1"', group_by: [pod], storm_when: {alerts: 3, resources: 2}, namespace: pods}
silences:
  - {name: calm, match: 'alertname="Group2"'}
"""
"""Another view of everything that can be configured about storms."""
ROUTES = {"few", "pods", "default"}
PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "replay.md"


async def published(settings: Settings) -> dict[str, bytes]:
    """What `storms` holds, by name; none is there twice."""
    found = await read_topic(settings, settings.storms_topic)
    values = {one.key.decode(): one.value for one in found}
    assert len(values) == len(found)
    return values


async def keep_on(settings: Settings, done: asyncio.Event) -> None:
    """Publishes alerts as they happen until it is `done`."""
    for seed in count():
        await live(settings, 1.0, seed)
        if done.is_set():
            return


async def delete(settings: Settings, topic: str, share: float = 1.0) -> None:
    """Deletes the first records of each partition of a topic."""
    async with open_reader(settings) as tail, open_admin(settings) as admin:
        ends = await tail.ends(topic)
        await admin.delete_records(
            {TopicPartition(topic, p): RecordsToDelete(before_offset=int(share * end)) for p, end in ends.items()}
        )


async def told(settings: Settings, workers: Workers, config_file: Path, seed: int) -> Span:
    """Has an incident folded, some of its alerts late; returns a range that has all of it and is known to be closed."""
    made = incident(seed, 6_000)
    sent = [Sent(at, record(*alerts), partition) for at, partition, alerts in made]
    sent[100::60] = [one._replace(time=one.time - 30_000) for one in sent[100::60]]
    await publish(settings, sent)
    workers.config = config_file
    workers.start(max_poll_records="300")
    assert_balanced(await drained(settings, config_file))
    span = Span(made[0][0] - 60_000, made[-1][0] + 60_000)

    async def closed() -> bool:
        fold = await read_committed(settings, settings.consumer_group("fold"), settings.keyed_topic)
        return (newest_closed(fold) or 0) > span.end

    await until(closed, what="a commit says that all of it is closed")
    return span


async def replay(settings: Settings, config: Path, span: Span | None, *words: str) -> tuple[int, dict[str, Any]]:
    """Exit code and answer of the command; without a span, of all that is closed from an hour before the present on."""
    times = ("--from", "3h") if span is None else ("--from", str(span.begin), "--to", str(span.end))
    done = await stormfold(settings, "replay", *times, "--config", str(config), "-o", "json", *words)
    return done.returncode, json.loads(done.stdout) if done.stdout else {"error": done.stderr}


async def test_storms_come_back(topics: Settings, workers: Workers, config_file: Path) -> None:
    """Deleted storms come back byte for byte, each once, while others form; what is there stays, tampered or not."""
    span = await told(topics, workers, config_file, seed=5)
    before = await published(topics)
    await delete(topics, topics.storms_topic)
    assert await published(topics) == {}

    done = asyncio.Event()
    feed = asyncio.create_task(keep_on(topics, done))
    await until(lambda: _open(topics, config_file), what="live storms are open")
    code, answer = await replay(topics, config_file, span)
    assert (code, sorted(answer["published"]), answer["same"]) == (0, sorted(before), 0)
    code, answer = await replay(topics, config_file, None)
    assert (code, answer["published"]) == (0, []) and answer["same"] >= len(before)
    done.set()
    await feed
    after = await drained(topics, config_file)
    assert_balanced(after)
    now = await published(topics)
    assert before.items() <= now.items()
    assert all("live" in name for name in now.keys() - before.keys())

    starts = {load(config_file).windows.bucket(storm.first_seen) for storm in decoded(before)}
    for begin, end in pairwise(sorted(starts)[::15]):
        part = await restore(topics, load(config_file), Span(begin, end), lambda *_: None)
        inside = sum(begin <= load(config_file).windows.bucket(storm.first_seen) < end for storm in decoded(before))
        assert part.well and part.published == [] and part.same == inside > 0

    tampered, gone = sorted(before)[:2]
    storm = msgspec.json.decode(before[tampered])
    storm["spec"]["alertCount"] += 1
    await delete(topics, topics.storms_topic)
    values = {name: value for name, value in before.items() if name not in (gone, tampered)}
    stray = msgspec.json.decode(before[sorted(before)[2]])
    stray["metadata"]["name"] = "stray"
    values |= {tampered: msgspec.json.encode(storm), "stray": msgspec.json.encode(stray), "foreign": b"{}"}
    await write(topics, values)
    code, answer = await replay(topics, config_file, span)
    assert code == 1
    assert answer["differs"] == [
        {"name": tampered, "published": storm["spec"]["alertCount"], "replayed": storm["spec"]["alertCount"] - 1}
    ]
    assert answer["unexplained"] == ["stray"]
    assert answer["published"] + answer["doubtful"] == [gone]
    assert (await published(topics))[tampered] == msgspec.json.encode(storm)


def decoded(values: dict[str, bytes]) -> list[Aggregate]:
    """The storms of records."""
    return [from_manifest(msgspec.json.decode(value)) for value in values.values()]


async def write(settings: Settings, values: dict[str, bytes]) -> None:
    """Publishes records into `storms` as they are."""
    producer = Producer(settings, "test")
    try:
        await producer.send_by_key(settings.storms_topic, [ProducerRecord(n.encode(), v) for n, v in values.items()])
    finally:
        await producer.stop()


async def _open(settings: Settings, config_file: Path) -> bool:
    return (await books(settings, config_file, wait=0)).open > 0


@pytest.mark.parametrize("lost", [False, True], ids=["storms there", "storms lost"])
async def test_nothing_is_counted_twice(
    topics: Settings, workers: Workers, config_file: Path, tmp_path: Path, lost: bool
) -> None:
    """Under other windows, or without its log, nothing is published, also if `storms` says nothing of what was."""
    span = await told(topics, workers, config_file, seed=7)
    before = await published(topics)
    if lost:
        await delete(topics, topics.storms_topic)
    other, forgotten = tmp_path / "other.yaml", tmp_path / "forgotten.yaml"
    forgotten.write_text("")
    for windows in ("{gap: 3s, grace: 1s, slice: 12s}", "{gap: 2s, grace: 1s, slice: 12s}"):
        other.write_text(f"windows: {windows}\n")
        code, answer = await replay(topics, other, span)
        assert code == 1 and "gap 2s, slice 10s" in answer["error"] and "slice 12s" in answer["error"], answer
    code, answer = await replay(topics, forgotten, span)
    assert code == 1 and "gap 1m, slice 5m" in answer["error"], answer
    assert await published(topics) == ({} if lost else before)

    # The grace decides nothing here.
    other.write_text("windows: {gap: 2s, grace: 2s, slice: 10s}\n")
    code, answer = await replay(topics, other, span)
    assert (code, sorted(answer["published"])) == (0, sorted(before) if lost else [])
    assert await published(topics) == before

    await delete(topics, topics.storms_topic)
    await delete(topics, topics.keyed_topic, 0.2)
    code, answer = await replay(topics, config_file, span)
    assert code == 1 and "the log begins too late" in answer["error"]
    assert await published(topics) == {}


async def test_windows_were_others(topics: Settings, workers: Workers, config_file: Path, tmp_path: Path) -> None:
    """Where windows were changed, what was counted under the old ones is not published again under the new."""
    began = time.time_ns() // 1_000_000
    workers.config = config_file
    first = workers.start()
    await live(topics, 1.0, seed=1)
    assert_balanced(await drained(topics, config_file))
    old = await published(topics)
    first.terminate()
    await asyncio.to_thread(first.wait, 30)

    wide = tmp_path / "wide.yaml"
    wide.write_text("windows: {gap: 10s, grace: 1s, slice: 20s}\n")
    workers.config = wide
    workers.start()

    async def changed() -> int | None:
        return (await noted(topics)).s

    since: int = await until(changed, what="the new windows hold")
    await live(topics, 1.0, seed=2)
    ended = time.time_ns() // 1_000_000
    assert_balanced(await drained(topics, wide))

    async def closed() -> bool:
        return ((await noted(topics)).c or 0) > ended

    await until(closed, what="a commit says that all of it is closed")
    now = await published(topics)
    new = {name: value for name, value in now.items() if name not in old}
    assert old and new and all(storm.first_seen < since for storm in decoded(old))
    # What would be one storm under the new windows if all of it were folded under them.
    assert load(wide).windows.bucket(since) < since < max(storm.last_seen for storm in decoded(old)) + 10_000

    span = Span(began - 60_000, ended)
    code, answer = await replay(topics, wide, span)
    assert (code, answer["published"], answer["same"]) == (0, [], len(new)), answer
    await delete(topics, topics.storms_topic)
    code, answer = await replay(topics, config_file, span)
    assert code == 1 and "gap 10s, slice 20s" in answer["error"], answer
    for config in (config_file, wide):
        code, answer = await replay(topics, config, Span(span.begin, since - 1))
        assert code == 1 and "was counted under other windows" in answer["error"], answer
    assert await published(topics) == {}
    code, answer = await replay(topics, config_file, Span(span.begin, since - 1), "--dry-run")
    assert code == 0 and sum(row["alerts"] for row in answer["classes"]) > 0

    words = ("--from", str(span.begin), "--to", str(span.end), "--config", str(wide))
    done = await stormfold(topics, "replay", *words)
    assert done.returncode == 0 and "other windows" in done.stderr, done.stderr
    assert await published(topics) == new


async def noted(settings: Settings) -> CommitMetadata:
    """What fold has committed last."""
    return newest_metadata(await read_committed(settings, settings.consumer_group("fold"), settings.keyed_topic))


async def stamped_plainly(settings: Settings) -> list[tuple[int, dict[str, Any]]]:
    """Every alert of `alerts` with the event time that it was stamped with."""
    times = {keyed.source: keyed.stamped[0] async for keyed in keyed_alerts(settings)}
    found = []
    for one in await read_topic(settings, settings.alerts_topic):
        value = json.loads(one.value)
        for index, plain in enumerate(value if isinstance(value, list) else [value]):
            found.append((times[one.partition, one.offset, index], plain))
    return sorted(found, key=lambda entry: entry[0])


async def refolded(settings: Settings, config: Config, span: Span) -> tuple[Range, list[Aggregate]]:
    """The storms that a dry run counts."""
    async with open_reader(settings) as tail:
        of, stamps = await read_stamps(await open_range(settings, config, span, tail, lambda *_: None))
        refold = InMemoryFold(config.windows, of.rebuild, config.max_fingerprints, config.max_resources)
        found = [storm async for storm in storms(of, refold, understood(of, stamps))]
        return of, [storm for storm in found if of.holds(storm.first_seen)]


async def test_another_configuration(topics: Settings, workers: Workers, config_file: Path, tmp_path: Path) -> None:
    """A dry run gives exactly what the other configuration would have, beside what was; and publishes nothing."""
    span = await told(topics, workers, config_file, seed=8)
    before = await published(topics)
    tuned = tmp_path / "tuned.yaml"
    tuned.write_text(TUNED)
    model = batch_model(load(tuned), await stamped_plainly(topics))
    _, found = await refolded(topics, load(tuned), span)
    assert {storm.name: counts_of(storm) for storm in found} == model
    assert {storm.route for storm in found} == ROUTES

    code, answer = await replay(topics, tuned, span, "--dry-run")
    assert code == 0 and answer["not_over"] == 0
    was = (await pipeline.aggregates(topics)).values()
    for row in answer["classes"]:
        for suffix, counted in (("", found), ("_then", was)):
            alerts = [storm.alert_count for storm in counted if storm.aggregate_class == row["class"]]
            assert (row[f"storms{suffix}"], row[f"alerts{suffix}"]) == (len(alerts), sum(alerts))
    resources = Counter(storm.route for storm in found if storm.aggregate_class == "Storm")
    assert {row["route"]: row["resources"] for row in answer["routes"]} == {name: resources[name] for name in ROUTES}
    biggest = [(big["alerts"], big["name"]) for big in answer["biggest"]]
    assert [alerts for alerts, _ in biggest] == sorted((one.alerts for one in model.values()), reverse=True)[:10]
    assert all(model[name].alerts == alerts for alerts, name in biggest)
    table = await stormfold(
        topics, "replay", "--from", str(span.begin), "--to", str(span.end), "--dry-run", "--config", str(tuned)
    )
    headings = [line.split() for line in table.stdout.splitlines() if line.isupper()]
    shown = [line.split() for line in PAGE.read_text().splitlines() if line.isupper()]
    assert table.returncode == 0 and len(headings) == 3 and headings == shown
    assert await published(topics) == before

    # Kafka no longer has all of the alerts: what could be missing some of them is left out.
    await delete(topics, topics.alerts_topic, 0.05)
    of, rest = await refolded(topics, load(tuned), span)
    assert span.begin < of.span.begin < span.end
    kept = {storm.name: counts_of(storm) for storm in rest}
    assert kept == {name: model[name] for name in model if of.holds(model[name].first)} and 0 < len(kept) < len(model)
