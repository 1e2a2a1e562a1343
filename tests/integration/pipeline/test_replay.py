"""Replay: missing storms are restored while others are open, and another configuration is tried."""

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
from stormfold.kafka.committed import CommitMetadata, newest_closed_before, newest_metadata, read_committed
from stormfold.kafka.producer import Producer, ProducerRecord
from stormfold.kafka.reader import open_reader
from stormfold.manifest import from_manifest
from stormfold.redis.client import connect
from stormfold.redis.store import Store
from stormfold.replay.log import fold, read_event_times, read_parsed
from stormfold.replay.range import Range, Span, open_range
from stormfold.replay.restore import restore
from stormfold.settings import Settings
from stormfold.storm import Aggregate
from tests.integration.pipeline.test_faults import incident
from tests.support import pipeline
from tests.support.alerts import Sent, record
from tests.support.cli import stormfold
from tests.support.incidents import plain as plain_incidents
from tests.support.model import batch_model, counts_of, keyed_alerts
from tests.support.pipeline import assert_balanced, books, drained, publish, publish_live, read_topic
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
"""A configuration that differs in everything about storms."""
ROUTES = {"few", "pods", "default"}
PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "replay.md"


async def published(settings: Settings) -> dict[str, bytes]:
    """The records of `storms` by name; asserts that no name is there twice."""
    found = await read_topic(settings, settings.storms_topic)
    values = {one.key.decode(): one.value for one in found}
    assert len(values) == len(found)
    return values


async def publish_until(settings: Settings, done: asyncio.Event) -> None:
    """Publishes live alerts until `done` is set."""
    for seed in count():
        await publish_live(settings, 1.0, seed)
        if done.is_set():
            return


async def delete(settings: Settings, topic: str, share: float = 1.0) -> None:
    """Deletes the first records of each partition of a topic."""
    async with open_reader(settings) as tail, open_admin(settings) as admin:
        ends = await tail.end_offsets(topic)
        await admin.delete_records(
            {TopicPartition(topic, p): RecordsToDelete(before_offset=int(share * end)) for p, end in ends.items()}
        )


async def fold_incident(settings: Settings, workers: Workers, config_file: Path, seed: int) -> Span:
    """Lets a worker fold an incident with some late alerts. Returns a range that contains it and is closed."""
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
        return (newest_closed_before(fold) or 0) > span.end

    await until(closed, what="a commit has a C after the range")
    return span


async def replay(settings: Settings, config: Path, span: Span | None, *words: str) -> tuple[int, dict[str, Any]]:
    """Exit code and output of the command; without a span, for the last three hours."""
    times = ("--from", "3h") if span is None else ("--from", str(span.begin), "--to", str(span.end))
    done = await stormfold(settings, "replay", *times, "--config", str(config), "-o", "json", *words)
    return done.returncode, json.loads(done.stdout) if done.stdout else {"error": done.stderr}


async def test_missing_storms_are_restored_byte_for_byte(topics: Settings, workers: Workers, config_file: Path) -> None:
    """Each once, while others form. Existing storms stay, even if somebody has changed them."""
    span = await fold_incident(topics, workers, config_file, seed=5)
    before = await published(topics)
    await delete(topics, topics.storms_topic)
    assert await published(topics) == {}

    done = asyncio.Event()
    feed = asyncio.create_task(publish_until(topics, done))
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
        assert part.complete and part.published == [] and part.same == inside > 0

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
    assert answer["published"] + answer["ambiguous"] == [gone]
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
async def test_nothing_is_restored_under_other_windows_or_without_the_log(
    topics: Settings, workers: Workers, config_file: Path, tmp_path: Path, lost: bool
) -> None:
    """That holds even if `storms` is empty."""
    span = await fold_incident(topics, workers, config_file, seed=7)
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

    # The names do not depend on the grace.
    other.write_text("windows: {gap: 2s, grace: 2s, slice: 10s}\n")
    code, answer = await replay(topics, other, span)
    assert (code, sorted(answer["published"])) == (0, sorted(before) if lost else [])
    assert await published(topics) == before

    await delete(topics, topics.storms_topic)
    await delete(topics, topics.keyed_topic, 0.2)
    code, answer = await replay(topics, config_file, span)
    assert code == 1 and "the log begins too late" in answer["error"]
    assert await published(topics) == {}


async def test_storms_counted_under_earlier_windows_are_not_restored(
    topics: Settings, workers: Workers, config_file: Path, tmp_path: Path
) -> None:
    began = time.time_ns() // 1_000_000
    workers.config = config_file
    first = workers.start()
    enough = asyncio.Event()
    feed = asyncio.create_task(publish_until(topics, enough))
    await until(lambda: _open(topics, config_file), what="live storms are open")

    wide = tmp_path / "wide.yaml"
    wide.write_text("windows: {gap: 15s, grace: 1s, slice: 30s}\n")
    workers.config = wide
    workers.start()

    async def requested() -> bool:
        async with connect(topics) as redis:
            store = Store(redis, topics.redis_prefix)
            version = await store.version()
            assert version
            return version.windows == load(wide).windows or await store.pending_windows(version) is not None

    # They hold as soon as nothing is open: some seconds after the last alert, although a worker starts slowly.
    await until(requested, what="the new windows are requested")
    enough.set()
    await feed

    async def changed() -> int | None:
        return (await newest_commit(topics)).windows_since

    since: int = await until(changed, 60, "the new windows hold")
    first.terminate()
    await asyncio.to_thread(first.wait, 30)
    old = await published(topics)
    await publish_live(topics, 1.0, seed=2)
    ended = time.time_ns() // 1_000_000
    assert_balanced(await drained(topics, wide, 120))

    async def closed() -> bool:
        return ((await newest_commit(topics)).closed_before or 0) > ended

    await until(closed, 60, "a commit has a C after the range")
    now = await published(topics)
    new = {name: value for name, value in now.items() if name not in old}
    assert old and new and all(storm.first_seen < since for storm in decoded(old))
    # Under the new windows the old storms and the new ones would be one.
    assert load(wide).windows.bucket(since) < since < max(storm.last_seen for storm in decoded(old)) + 15_000

    span = Span(began - 60_000, ended)
    code, answer = await replay(topics, wide, span)
    assert (code, answer["published"], answer["same"]) == (0, [], len(new)), answer
    await delete(topics, topics.storms_topic)
    code, answer = await replay(topics, config_file, span)
    assert code == 1 and "gap 15s, slice 30s" in answer["error"], answer
    for config in (config_file, wide):
        code, answer = await replay(topics, config, Span(span.begin, since - 1))
        assert code == 1 and "were counted under other windows" in answer["error"], answer
    assert await published(topics) == {}
    code, answer = await replay(topics, config_file, Span(span.begin, since - 1), "--dry-run")
    assert code == 0 and sum(row["alerts"] for row in answer["classes"]) > 0

    words = ("--from", str(span.begin), "--to", str(span.end), "--config", str(wide))
    done = await stormfold(topics, "replay", *words)
    assert done.returncode == 0 and "other windows" in done.stderr, done.stderr
    assert await published(topics) == new


async def newest_commit(settings: Settings) -> CommitMetadata:
    """The metadata that fold has committed last."""
    return newest_metadata(await read_committed(settings, settings.consumer_group("fold"), settings.keyed_topic))


async def alerts_with_event_times(settings: Settings) -> list[tuple[int, dict[str, Any]]]:
    """Every alert of `alerts` with the event time that intake assigned."""
    times = {keyed.source: keyed.stamped[0] async for keyed in keyed_alerts(settings)}
    found = []
    for one in await read_topic(settings, settings.alerts_topic):
        value = json.loads(one.value)
        for index, plain in enumerate(value if isinstance(value, list) else [value]):
            found.append((times[one.partition, one.offset, index], plain))
    return sorted(found, key=lambda entry: entry[0])


async def replayed(settings: Settings, config: Config, span: Span) -> tuple[Range, list[Aggregate]]:
    """The aggregates that a dry run counts."""
    async with open_reader(settings) as tail:
        range_, times = await read_event_times(await open_range(settings, config, span, tail, lambda *_: None))
        in_memory = InMemoryFold(config.windows, range_.rebuild, config.max_fingerprints, config.max_resources)
        found = [storm async for storm in fold(range_, in_memory, read_parsed(range_, times))]
        return range_, [storm for storm in found if range_.contains(storm.first_seen)]


async def test_a_dry_run_shows_exactly_what_a_configuration_makes(
    topics: Settings, workers: Workers, config_file: Path, tmp_path: Path
) -> None:
    """It shows the published storms next to it, and publishes nothing."""
    span = await fold_incident(topics, workers, config_file, seed=8)
    before = await published(topics)
    tuned = tmp_path / "tuned.yaml"
    tuned.write_text(TUNED)
    model = batch_model(load(tuned), await alerts_with_event_times(topics))
    _, found = await replayed(topics, load(tuned), span)
    assert {storm.name: counts_of(storm) for storm in found} == model
    assert {storm.route for storm in found} == ROUTES

    code, answer = await replay(topics, tuned, span, "--dry-run")
    assert code == 0 and answer["still_open"] == 0
    was = (await pipeline.aggregates(topics)).values()
    for row in answer["classes"]:
        for suffix, counted in (("", found), ("_published", was)):
            alerts = [storm.alert_count for storm in counted if storm.aggregate_class == row["class"]]
            assert (row[f"storms{suffix}"], row[f"alerts{suffix}"]) == (len(alerts), sum(alerts))
    resources = Counter(storm.route for storm in found if storm.aggregate_class == "Storm")
    assert {row["route"]: row["resources"] for row in answer["routes"]} == {name: resources[name] for name in ROUTES}
    for suffix, counted in (("", found), ("_published", was)):
        formed = plain_incidents(counted)
        assert answer["incidents"][f"incidents{suffix}"] == len(formed)
        assert answer["incidents"][f"alerts{suffix}"] == sum(one.alerts for one in formed)
    assert {one["name"] for one in answer["largest_incidents"]} <= {one.name for one in plain_incidents(found)}
    largest = [(one["alerts"], one["name"]) for one in answer["largest"]]
    assert [alerts for alerts, _ in largest] == sorted((one.alerts for one in model.values()), reverse=True)[:10]
    assert all(model[name].alerts == alerts for alerts, name in largest)
    table = await stormfold(
        topics, "replay", "--from", str(span.begin), "--to", str(span.end), "--dry-run", "--config", str(tuned)
    )
    headings = [line.split() for line in table.stdout.splitlines() if line.isupper()]
    shown = [line.split() for line in PAGE.read_text().splitlines() if line.isupper()]
    assert table.returncode == 0 and len(headings) == 5 and headings == shown
    assert await published(topics) == before

    # Kafka no longer has all alerts: storms that may lack some are left out.
    await delete(topics, topics.alerts_topic, 0.05)
    range_, rest = await replayed(topics, load(tuned), span)
    assert span.begin < range_.span.begin < span.end
    kept = {storm.name: counts_of(storm) for storm in rest}
    assert kept == {name: model[name] for name in model if range_.contains(model[name].first)} and 0 < len(kept) < len(
        model
    )
