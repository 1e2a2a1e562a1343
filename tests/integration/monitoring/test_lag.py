"""The lag that a worker exports is that of Kafka, whatever the worker waits for."""

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer
from prometheus_client.parser import text_string_to_metric_families

from stormfold import metrics
from stormfold.errors import Retry
from stormfold.kafka.client import client_options
from stormfold.kafka.committed import read_committed
from stormfold.kafka.reader import open_reader
from stormfold.local.kafka import EmbeddedKafka
from stormfold.local.redis import EmbeddedRedis
from stormfold.settings import Settings
from stormfold.sinks import Outcome
from stormfold.sinks.directory import DirectorySink
from stormfold.status.snapshot import STAGES, topic_of
from stormfold.worker import Worker
from tests.integration.web.working import get, ready, working
from tests.support import consumer_groups
from tests.support.alerts import Sent, alert, record
from tests.support.exporter import exporter_lag
from tests.support.pipeline import assert_balanced, drained, publish
from tests.support.servers import until

BEGIN = 1_780_000_000_000
Lags = dict[tuple[str, int], int]
"""Records by stage and partition."""


@contextmanager
def frozen(server: EmbeddedRedis) -> Iterator[None]:
    """The server accepts connections but does not answer."""
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


async def exported(worker: Worker, name: str) -> dict[tuple[str, ...], float]:
    """The series of a metric by their label values, in the order of the label names."""
    families = text_string_to_metric_families((await get(worker, "/metrics")).text)
    samples = [sample for family in families for sample in family.samples if sample.name == name]
    return {tuple(sample.labels.values()): sample.value for sample in samples}


async def lags(worker: Worker) -> Lags:
    """The exported lag."""
    found = await exported(worker, "stormfold_lag_records")
    return {(stage, int(partition)): int(records) for (partition, stage), records in found.items()}


async def kafka_lag(settings: Settings) -> Lags:
    """End of each partition minus the committed offset of the stage, or minus its beginning without a commit."""
    topics = {stage: topic_of(settings, stage) for stage in STAGES if stage.split("-")[0] in settings.stage_names}
    lag: Lags = {}
    async with open_reader(settings) as tail:
        for stage in topics:
            committed = await read_committed(settings, settings.consumer_group(stage), topics[stage])
            begins, ends = await tail.beginning_offsets(topics[stage]), await tail.end_offsets(topics[stage])
            for partition, end in ends.items():
                at = committed[partition][0] if partition in committed else begins[partition]
                lag[stage, partition] = end - at
    return lag


async def agreed(worker: Worker, records: int, *stages: str) -> bool:
    """Whether the worker's lag is Kafka's in every partition, and has this sum over these stages, or over all."""
    ours = await lags(worker)
    waiting = sum(count for (stage, _), count in ours.items() if not stages or stage in stages)
    return ours == await kafka_lag(worker.settings) and waiting == records


async def write(settings: Settings, topic: str, counts: dict[int, int]) -> None:
    """Writes this many records to each partition."""
    async with AIOKafkaProducer(**client_options(settings)) as producer:
        for partition, count in counts.items():
            for _ in range(count):
                await producer.send(topic, b"?", partition=partition)
        await producer.flush()


def some(count: int) -> list[Sent]:
    """Alerts, unevenly spread."""
    return [Sent(BEGIN + 100 * n, record(alert(pod=f"p-{n % 40}")), (n % 7) % 3) for n in range(count)]


async def test_the_lag_is_zero_when_everything_is_processed(topics: Settings) -> None:
    """In every scrape for intake and emit, and repeatedly for fold.

    Each second a mark is written to every partition that fold reads. Until it is folded, milliseconds later, Kafka
    itself reports 1, as does the worker. The minimum over some seconds is 0.
    """
    await publish(topics, some(300))
    async with working(topics) as worker:
        await until(lambda: ready(worker), what="it is ready")
        assert_balanced(await drained(topics))
        await until(lambda: agreed(worker, 0), what="nothing is behind")
        looks = []
        for _ in range(20):
            looks.append(await lags(worker))
            await asyncio.sleep(0.1)
        assert all(len(found) == 3 * len(STAGES) for found in looks)
        for stage, partition in looks[0]:
            seen = [found[stage, partition] for found in looks]
            assert min(seen) == 0 and max(seen) <= (2 if stage == "fold" else 0), (stage, partition, seen)


async def test_the_lag_of_a_stuck_stage_is_that_of_kafka(
    topics: Settings, kafka: EmbeddedKafka, own_redis: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also that of Kafka's own tool. Values from the frozen Redis are no longer exported."""
    monkeypatch.setattr(metrics, "FRESH_SECONDS", 2.0)
    async with working(topics.model_copy(update={"stages": "fold,close"})) as worker:
        await until(lambda: ready(worker), what="it is ready")
        await write(topics, topics.keyed_topic, {0: 40, 1: 3})
        await until(lambda: agreed(worker, 0), what="nothing is behind")
        assert await exported(worker, "stormfold_redis_used_bytes")
        with frozen(own_redis):
            await write(topics, topics.keyed_topic, {0: 400, 2: 100})
            await until(lambda: agreed(worker, 500), what="the new records are lag")
            assert {partition: n for (_, partition), n in (await lags(worker)).items()} == {0: 400, 1: 0, 2: 100}
            await write(topics, topics.keyed_topic, {1: 250})
            await until(lambda: agreed(worker, 750), what="more records are lag")
            by_kafka = await asyncio.to_thread(consumer_groups.lag, kafka, topics.consumer_group("fold"))
            assert by_kafka == {partition: n for (_, partition), n in (await lags(worker)).items()}
            assert sorted((await exported(worker, "stormfold_position")).values()) == [0, 3, 40]

            async def unknown() -> bool:
                return not await exported(worker, "stormfold_redis_used_bytes")

            await until(unknown, what="Redis metrics are no longer exported")
        await until(lambda: agreed(worker, 0), what="all is done")
        await until(lambda: exported(worker, "stormfold_redis_used_bytes"), what="Redis metrics are exported again")


async def test_a_worker_that_starts_during_an_outage_exports_the_lag(
    topics: Settings, own_redis: EmbeddedRedis
) -> None:
    """Even though it cannot determine its positions. Without Redis, no worker correlates."""
    topics = topics.model_copy(update={"stages": "intake,fold,close,emit"})
    async with working(topics) as worker:
        await until(lambda: ready(worker), what="it is ready")
        await publish(topics, some(100))
        assert_balanced(await drained(topics))
    await publish(topics, some(200))
    with ExitStack() as outage:
        outage.enter_context(frozen(own_redis))
        async with working(topics) as worker:
            # The last marks of the previous worker can wait for fold.
            await until(lambda: agreed(worker, 200, "intake"), what="the new records are lag")
            assert await exported(worker, "stormfold_ready") == {(): 0.0}
            assert await exported(worker, "stormfold_component_unhealthy")
            outage.close()
            await until(lambda: agreed(worker, 0), what="all is done")
            await until(lambda: ready(worker), what="it is ready")
            assert await exported(worker, "stormfold_ready") == {(): 1.0}
            assert not await exported(worker, "stormfold_component_unhealthy")


async def test_without_workers_the_lag_of_the_brokers_is_complete(topics: Settings) -> None:
    """Each group has committed its position in every partition, also in those that it has not read from yet."""
    async with working(topics) as worker:
        await until(lambda: ready(worker), what="it is ready")

        async def committed() -> bool:
            lag = await exporter_lag(topics)
            return len(lag) == 3 * len(STAGES) and min(lag.values()) >= 0

        await until(committed, what="every partition has a commit")
    before = await exporter_lag(topics)
    assert before == await kafka_lag(topics)
    await write(topics, topics.alerts_topic, {0: 5})
    await write(topics, topics.storms_topic, {2: 1})
    waiting = {("intake", 0): 5, ("correlate", 2): 1, ("emit", 2): 1}
    lag = await exporter_lag(topics)
    assert lag == await kafka_lag(topics) == {at: count + waiting.get(at, 0) for at, count in before.items()}


async def test_a_storm_that_was_never_written_is_lag_for_the_brokers(
    topics: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await publish(topics, some(300))
    async with working(topics.model_copy(update={"stages": "intake,fold,close"})):
        assert_balanced(await drained(topics))

    async def away(*_: object) -> Outcome:
        raise Retry("the sink is away")

    monkeypatch.setattr(DirectorySink, "write", away)

    async def seen_by_brokers() -> bool:
        lag = await exporter_lag(topics)
        return sorted(count for (stage, _), count in lag.items() if stage == "emit") == [0, 0, 1]

    async with working(topics.model_copy(update={"stages": "emit", "sink": f"directory:{tmp_path}"})):
        await until(seen_by_brokers, what="the storm waits")
    assert await seen_by_brokers()


async def test_event_time_lag_is_small_when_idle_and_grows_when_a_stage_is_stuck(
    topics: Settings, own_redis: EmbeddedRedis
) -> None:

    async def ages(worker: Worker) -> list[float]:
        by_partition = await exported(worker, "stormfold_event_time_lag_seconds")
        folded = [age for (_, stage), age in by_partition.items() if stage == "fold"]
        return [*folded, *(await exported(worker, "stormfold_horizon_delay_seconds")).values()]

    async with working(topics) as worker:

        async def young() -> bool:
            found = await ages(worker)
            return len(found) == 4 and max(found) < 3

        async def old() -> bool:
            return min(await ages(worker)) > 5

        await until(young, what="event time is as good as now")
        with frozen(own_redis):
            await until(old, what="event time lag grows")
        await until(young, what="event time is as good as now again")
