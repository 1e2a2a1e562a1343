"""Records of hundreds and thousands of alerts: each alert is counted once, also when workers die in the middle."""

import asyncio
import random
import signal
from typing import Any

import msgspec

from stormfold.kafka.committed import read_committed
from tests.integration.pipeline.test_sigterm import ends
from tests.support.alerts import Sent, alert, record
from tests.support.pipeline import Pipeline
from tests.support.servers import MAX_RECORD, until

MANY = [(500, 6), (5_000, 2)] * 4
"""(alerts in a record, records), one after the other."""
TRIES = 10
"""How often a worker is frozen and looked at before it is killed although everything that it sent is committed."""
SECONDS = 90


def crowd(rng: random.Random, size: int) -> list[dict[str, Any]]:
    """Returns alerts of a few groups, some of them resolved, some of them equal."""
    return [
        alert(f"Group{rng.randrange(8)}", pod=f"pod-{rng.randrange(300)}", resolved=rng.random() < 0.2)
        for _ in range(size)
    ]


def webhook(alerts: list[dict[str, Any]]) -> bytes:
    """Encodes the alerts as one Alertmanager notification."""
    return msgspec.json.encode({"version": "4", "groupKey": "{}", "status": "firing", "alerts": alerts})


async def keyed_records(pipeline: Pipeline) -> int:
    """Returns the number of records that were written to the keyed topic."""
    return sum((await ends(pipeline.settings, pipeline.settings.keyed_topic)).values())


async def uncommitted(pipeline: Pipeline) -> bool:
    """Returns whether alerts were sent from records that intake has not committed."""
    settings = pipeline.settings
    committed = await read_committed(settings, settings.consumer_group("intake"), settings.alerts_topic)
    reached = {partition: offset for partition, (offset, _) in committed.items()}
    return any(offset >= reached.get(partition, 0) for partition, offset, _ in await pipeline.source_positions())


async def test_each_alert_of_a_large_record_is_counted_or_its_record_is_a_dead_letter(
    pipeline: Pipeline, past: int
) -> None:
    """Records of 500, 5,000 and 30,000 alerts (10 MB); two records with one malformed alert each."""
    rng = random.Random(1)
    big = [one | {"annotations": {"text": "x" * 200}} for one in crowd(rng, 30_000)]
    assert 10_000_000 < len(webhook(big)) < MAX_RECORD
    whole = [(past, crowd(rng, 500)), (past + 1, crowd(rng, 5_000)), (past + 2, big), (past + 3, crowd(rng, 1))]
    wrong = [*crowd(rng, 4_999), {"labels": {"alertname": 1}}]
    await pipeline.publish(
        [
            Sent(past, webhook(wrong), 2),
            *(Sent(time, webhook(alerts), n % 3) for n, (time, alerts) in enumerate(whole)),
            Sent(past + 4, record(*wrong), 0),
        ]
    )

    pipeline.start()
    model = pipeline.model((time, one) for time, alerts in whole for one in alerts)
    await pipeline.assert_aggregates(model, SECONDS, dead_letters=2)


async def test_a_worker_killed_within_a_large_record_does_not_make_its_alerts_count_twice(
    own_pipeline: Pipeline, past: int
) -> None:
    rng = random.Random(2)
    sizes = [size for size, times in MANY for _ in range(times)]
    records = [(past + 500 * n, n % 3, crowd(rng, size)) for n, size in enumerate(sizes)]
    await own_pipeline.publish(Sent(time, webhook(alerts), partition) for time, partition, alerts in records)

    for _ in range(3):
        before = await keyed_records(own_pipeline)
        worker = own_pipeline.start(max_poll_records="1")

        async def sending(before: int = before) -> bool:
            # Watermark records alone add fewer records than this.
            return await keyed_records(own_pipeline) >= before + 100

        await until(sending, what="the worker sends alerts")
        for _ in range(TRIES):
            worker.send_signal(signal.SIGSTOP)
            if await uncommitted(own_pipeline):
                break
            worker.send_signal(signal.SIGCONT)
            await asyncio.sleep(0.03)
        worker.kill()
        worker.wait()
    own_pipeline.start()
    model = own_pipeline.model((time, one) for time, _, alerts in records for one in alerts)
    await own_pipeline.assert_aggregates(model, SECONDS, dead_letters=0)

    sent = await own_pipeline.source_positions()
    assert len(set(sent)) == sum(sizes)
    assert len(sent) > len(set(sent)), "no kill has struck between a record and its commit"


async def test_records_compressed_a_hundredfold_do_not_cost_intake_its_membership(
    own_pipeline: Pipeline, past: int
) -> None:
    """A hundred thousand alerts in compressed records of 500: more than can be read within the session timeout of 2 s.

    Intake reads them in parts, remains a member of its group, and sends few of them twice.
    """
    crowds = [[alert(f"Group{n % 107}", pod=f"pod-{500 * n + one}") for one in range(500)] for n in range(200)]
    sent = [Sent(past + n, webhook(alerts), n % 3) for n, alerts in enumerate(crowds)]
    assert sum(len(one.value or b"") for one in sent) > 10_000_000
    await own_pipeline.publish(sent, "zstd")

    own_pipeline.start()
    model = own_pipeline.model((past + n, one) for n, alerts in enumerate(crowds) for one in alerts)
    await own_pipeline.assert_aggregates(model, SECONDS, dead_letters=0)
    keyed = await own_pipeline.source_positions()
    assert 100_000 == len(set(keyed)) <= len(keyed) < 150_000
