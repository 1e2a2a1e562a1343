"""Storms become incidents: those of a plain batch, after crashes, changes of the lease and added partitions."""

import asyncio
import signal
from collections.abc import Iterator

import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.admin import NewPartitions
from redis.asyncio import Redis

from stormfold.incident import Incident
from stormfold.incident_manifest import decode_manifest, encode_manifest
from stormfold.kafka.client import client_options, open_admin
from stormfold.kafka.committed import Committed, read_committed
from stormfold.kafka.log_reader import open_log_reader
from stormfold.kafka.producer import Producer, ProducerRecord
from stormfold.local.kafka import EmbeddedKafka
from stormfold.settings import Settings
from tests.integration.kafka.test_lifecycle_log import logged
from tests.integration.pipeline.test_recreated import reset_positions
from tests.support.alerts import Sent, alert, now, record
from tests.support.cli import stormfold
from tests.support.incidents import facts, plain
from tests.support.pipeline import Pipeline, read_topic
from tests.support.servers import PARTITIONS, until
from tests.support.workers import stop

MINUTE = 60_000
SHORT = "windows: {gap: 2s, grace: 1s, slice: 10s}\nincidents: {gap: 5s}\n"
"""Storms close within seconds, incidents some seconds after them."""
SHORT_LEASE = {"close_lease": "3", "delivery_timeout": "2"}


def burst(name: str, cluster: str, start: int, alerts: int = 30) -> list[Sent]:
    """Records of alerts of one group, 10 ms apart, in turn over the partitions."""
    return [
        Sent(start + 10 * n, record(alert(name, pod=f"pod-{n}", cluster=cluster)), n % PARTITIONS)
        for n in range(alerts)
    ]


async def published(settings: Settings) -> dict[str, Incident]:
    """The incidents in the topic, by name. A repeated one must be identical."""
    found: dict[str, bytes] = {}
    for one in await read_topic(settings, settings.incidents_topic):
        name = one.key.decode()
        assert found.setdefault(name, one.value) == one.value, f"two incidents named {name}"
    return {name: decode_manifest(value) for name, value in found.items()}


async def incidents(pipeline: Pipeline, number: int, seconds: float = 60.0) -> list[Incident]:
    """Waits for that many incidents, and asserts that they are those of a plain batch of the storms."""

    async def enough() -> bool:
        return len(await published(pipeline.settings)) >= number

    await until(enough, seconds, f"{number} incidents")
    found = await published(pipeline.settings)
    assert sorted(map(facts, found.values())) == sorted(plain((await pipeline.aggregates()).values()))
    assert len(found) == number
    report = (await pipeline.audit()).incidents
    assert report is None or report.matches
    return list(found.values())


async def committed(settings: Settings) -> Committed:
    """The commits of correlate."""
    return await read_committed(settings, settings.consumer_group("correlate"), settings.storms_topic)


async def tamper(settings: Settings, incident: Incident) -> None:
    """Publishes a record as if a worker had."""
    producer = Producer(settings, "test")
    try:
        record = ProducerRecord(incident.name.encode(), encode_manifest(incident))
        await producer.send_by_key(settings.incidents_topic, [record])
    finally:
        await producer.stop()


async def has_commits(settings: Settings) -> bool:
    """Whether correlate has committed a position behind the first record."""
    return any(offset for offset, _ in (await committed(settings)).values())


async def commit(settings: Settings, offset: int) -> None:
    """Commits an offset for correlate, in every partition and without metadata. 0 is as if it had never committed."""
    async with open_log_reader(settings, settings.storms_topic, settings.consumer_group("correlate")) as reader:
        reader.start(dict.fromkeys(reader.partitions, 0))
        await reader.commit(dict.fromkeys(reader.partitions, (offset, "")))


async def storms(pipeline: Pipeline, number: int) -> None:
    """Waits until that many aggregates are published."""

    async def enough() -> bool:
        return len(await pipeline.aggregates()) >= number

    await until(enough, 60, f"{number} aggregates")


def holders(pipeline: Pipeline) -> list[int]:
    """Numbers of the workers that got the lease, in the order of time. On a slow machine one may lose it again."""
    message = "correlating: this worker has the lease"
    found = [
        (line["timestamp"], int(log.stem.removeprefix("worker-")))
        for log in pipeline.workers.folder.glob("worker-*.log")
        for line in logged(log, message)
    ]
    return [number for _, number in sorted(found)]


async def test_storms_of_a_cluster_make_one_incident_and_another_cluster_another(pipeline: Pipeline, past: int) -> None:
    """An isolated alert near the storms is listed; the commits say that nothing is needed any more."""
    made = [
        *burst("NodeDown", "eu", past), *burst("PodDown", "eu", past + 2 * MINUTE),
        *burst("Rare", "eu", past + 3 * MINUTE, 1), *burst("DiskFull", "us", past + MINUTE),
        *burst("NodeDown", "eu", past + 30 * MINUTE),
    ]  # fmt: skip
    await pipeline.publish(sorted(made, key=lambda sent: sent.time))
    pipeline.start()
    found = {(one.scope.labels["cluster"], one.first_seen): one for one in await incidents(pipeline, 3)}
    first = found["eu", past]
    assert first.name.startswith("eu-")
    assert (first.storm_count, first.other_group_count, first.alert_count) == (2, 1, 61)
    assert (first.first_pattern, first.severity) == ('NodeDown{cluster="eu"}', "warning")
    assert first.close_reason == "Quiet"

    async def nothing_needed() -> bool:
        return all(offset == metadata.needed for offset, metadata in (await committed(pipeline.settings)).values())

    await until(nothing_needed, what="a commit behind the last storm")
    audit = await stormfold(pipeline.settings, "audit")
    assert audit.returncode == 0
    assert "Incidents: 3 as the storms give them." in audit.stdout
    wrong = msgspec.structs.replace(first, alert_count=7)
    await tamper(pipeline.settings, wrong)
    audit = await stormfold(pipeline.settings, "audit")
    assert audit.returncode == 1
    assert f"1 different ({first.name}), 2 as they should be" in audit.stderr


async def test_an_open_incident_is_listed_without_an_alertmanager(pipeline: Pipeline) -> None:
    pipeline.configure("windows: {gap: 30s, grace: 1s, slice: 60s}\n")
    assert pipeline.settings.alertmanager is None
    pipeline.start()
    await pipeline.publish(burst("NodeDown", "eu", now()))

    async def listed() -> list[str]:
        return (await stormfold(pipeline.settings, "incidents")).stdout.splitlines()[1:]

    (row,) = await until(listed, 60, "the open incident is listed")
    severity, _, storm_count, _, state = row.split()[3:8]
    assert (severity, storm_count, state) == ("warning", "1", "open")


async def test_a_route_can_keep_its_storms_out_of_incidents(pipeline: Pipeline, past: int) -> None:
    pipeline.configure("routes: [{name: quiet, match: [alertname=Quiet], incidents: off}, {name: rest}]\n")
    await pipeline.publish(burst("Quiet", "eu", past) + burst("Loud", "eu", past + MINUTE))
    pipeline.start()
    (found,) = await incidents(pipeline, 1)
    assert found.first_pattern == 'Loud{cluster="eu"}'


def repeating(cluster: str, every: int, length: int, start: int) -> Iterator[Sent]:
    """Thirty alerts that began at `start` and are sent again every `every` ms."""
    for time in range(start, start + length, every):
        for n in range(30):
            made = {**alert("Down", pod=f"pod-{n}", cluster=cluster), "startsAt": start / 1000}
            yield Sent(time + n, record(made), n % PARTITIONS)


async def test_senders_that_repeat_make_one_incident_and_not_one_a_wave(pipeline: Pipeline, past: int) -> None:
    """Every wave is a storm of its own: the sender's pause is longer than the gap of the windows."""
    pauses = (75_000, 90_000, 120_000, 300_000)
    made = [
        sent for pause in pauses for sent in repeating(f"every-{pause // 1000}", pause, max(900_000, 3 * pause), past)
    ]
    await pipeline.publish(sorted(made, key=lambda sent: sent.time))
    pipeline.start()
    found = {one.scope.labels["cluster"]: one for one in await incidents(pipeline, len(pauses))}
    for pause in pauses:
        one = found[f"every-{pause // 1000}"]
        waves = -(-900_000 // pause)
        assert one.storm_count + one.other_group_count == waves
        assert one.alert_count == 30 * waves


async def test_a_worker_killed_between_publishing_and_committing_publishes_nothing_else(
    pipeline: Pipeline, past: int
) -> None:
    """The next worker reads the storms again and knows their incidents from the topic."""
    clusters = [f"c{number}" for number in range(20)]
    await pipeline.publish(sent for name in clusters for sent in burst("Down", name, past, 12))
    pipeline.configure(SHORT)
    worker = pipeline.start(**SHORT_LEASE)
    await until(lambda: published(pipeline.settings), 60, "an incident")
    worker.send_signal(signal.SIGKILL)
    await asyncio.to_thread(worker.wait)
    await commit(pipeline.settings, 0)
    pipeline.start()
    await incidents(pipeline, len(clusters))
    await until(lambda: has_commits(pipeline.settings), 60, "a commit")
    assert len(await pipeline.read(pipeline.settings.incidents_topic)) == len(clusters)
    await pipeline.publish(burst("Again", "c0", now(), 12))
    await incidents(pipeline, len(clusters) + 1)


async def test_a_frozen_holder_of_the_lease_that_wakes_changes_nothing(pipeline: Pipeline) -> None:
    """Another worker takes over; both publish the same, if both do."""
    pipeline.configure(SHORT)
    pipeline.start(stages="intake,fold,close")
    both = [pipeline.start(stages="correlate", **SHORT_LEASE) for _ in range(2)]
    await until(lambda: holders(pipeline), 30, "a worker with the lease")
    await pipeline.publish(burst("First", "eu", now()))
    await storms(pipeline, 1)
    before = holders(pipeline)
    holder = both[before[-1] - 1]
    holder.send_signal(signal.SIGSTOP)
    await until(lambda: len(holders(pipeline)) > len(before), 30, "the other worker has the lease")
    assert both[holders(pipeline)[-1] - 1] is not holder
    await pipeline.publish(burst("Second", "us", now()))
    await incidents(pipeline, 2)
    holder.send_signal(signal.SIGCONT)
    await pipeline.publish(burst("Third", "ap", now()))
    await incidents(pipeline, 3)


async def test_a_redis_that_loses_everything_while_an_incident_forms_changes_nothing(
    pipeline: Pipeline, redis: Redis
) -> None:
    """The lease is gone, and the state version: the worker reads all again, the storms are rebuilt."""
    pipeline.configure("windows: {gap: 2s, grace: 1s, slice: 10s}\nincidents: {gap: 20s}\n")
    pipeline.start()
    await pipeline.publish(burst("First", "eu", now()))
    await storms(pipeline, 1)
    await pipeline.publish(burst("Second", "eu", now()))
    keys = [key async for key in redis.scan_iter(f"{pipeline.settings.redis_prefix}:*")]
    await redis.delete(*keys)
    await pipeline.publish(burst("Third", "eu", now()))
    (found,) = await incidents(pipeline, 1, seconds=90)
    assert found.storm_count == 3


async def test_storms_in_an_added_partition_join_the_incident(pipeline: Pipeline) -> None:
    """Close begins to use the partitions while the incident forms."""
    settings = pipeline.settings
    pipeline.configure("windows: {gap: 2s, grace: 1s, slice: 10s}\nincidents: {gap: 15s}\n")
    pipeline.start()
    await pipeline.publish(burst("First", "eu", now()))
    await storms(pipeline, 1)
    async with open_admin(settings) as admin:
        await admin.create_partitions({settings.storms_topic: NewPartitions(PARTITIONS + 2)})
    sent = 1

    async def is_used() -> bool:
        nonlocal sent
        await pipeline.publish(burst(f"Next{sent}", "eu", now(), 12))
        sent += 1
        await storms(pipeline, sent)
        return any(one.partition >= PARTITIONS for one in await pipeline.read(settings.storms_topic))

    await until(is_used, 60, "a storm in an added partition")
    (found,) = await incidents(pipeline, 1, seconds=90)
    assert found.storm_count == sent


async def test_an_open_transaction_in_storms_delays_incidents_and_loses_none(pipeline: Pipeline, past: int) -> None:
    """What it holds back is not missing: until it ends, nothing is known to be final."""
    settings = pipeline.settings
    producer = AIOKafkaProducer(
        **client_options(settings), transactional_id=settings.group_prefix, transaction_timeout_ms=600_000
    )
    async with producer:
        await producer.begin_transaction()
        for partition in range(PARTITIONS):
            await producer.send_and_wait(settings.storms_topic, b"{}", partition=partition)
        await pipeline.publish(burst("First", "eu", past) + burst("Second", "eu", past + MINUTE))
        pipeline.start()
        await until(
            lambda: "open transactions of producers hold back" in pipeline.logs(), 60, "the problem is reported"
        )
        assert await published(settings) == {}
        await producer.abort_transaction()
        (found,) = await incidents(pipeline, 1)
    assert found.storm_count == 2


async def test_recreated_storms_are_refused_until_positions_are_reset(pipeline: Pipeline, past: int) -> None:
    """A position behind the end: otherwise the first storms of a new topic would be taken for ones that were read."""
    settings = pipeline.settings
    await commit(settings, 1_000)
    await pipeline.publish(burst("New", "eu", past))
    refusing = pipeline.start(stages="intake,fold,close,correlate", **SHORT_LEASE)
    await until(lambda: "seems to have been deleted and created again" in pipeline.logs(), 60, "it is refused")
    await storms(pipeline, 1)
    await stop(refusing)
    assert await published(settings) == {}
    assert await reset_positions(settings) == [f"{settings.storms_topic}-{n}" for n in range(PARTITIONS)]
    pipeline.start(stages="intake,fold,close,correlate", **SHORT_LEASE)
    await incidents(pipeline, 1)


async def test_a_broker_that_goes_away_while_a_worker_correlates_is_named_in_one_line(
    kafka: EmbeddedKafka, pipeline: Pipeline
) -> None:
    log = pipeline.workers.folder / "worker-0.log"
    pipeline.start(stages="correlate")
    await until(lambda: holders(pipeline), 60, "the worker correlates")
    await until(lambda: committed(pipeline.settings), 60, "a round is over")
    await asyncio.to_thread(kafka.kill)
    try:
        failed = await until(lambda: logged(log, "component failed"), 120, "correlate fails")
    finally:
        await asyncio.to_thread(kafka.start)
    await until(lambda: logged(log, "component recovered"), 120, "correlate recovers")
    assert [line["component"] for line in failed] == ["correlate"]
    assert kafka.bootstrap in failed[0]["error"] and "unexpected" not in failed[0]["error"]
    assert "Traceback" not in log.read_text()
