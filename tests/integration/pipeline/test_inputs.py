"""Malformed and unusual records: each is counted, or becomes a dead letter as it came, and the partition continues."""

import dataclasses
import json
import random
from base64 import b64encode
from collections import Counter
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy

from stormfold.kafka.client import client_options, open_admin
from stormfold.kafka.topics import create
from stormfold.kafka.topics import topics as wanted_topics
from stormfold.settings import Settings
from tests.support.alerts import Sent, alert, in_order, record
from tests.support.cli import stormfold
from tests.support.pipeline import Pipeline, assert_balanced, read_topic
from tests.support.servers import PARTITIONS
from tests.support.workers import Workers

Headers = tuple[tuple[str, bytes | None], ...]

MB = 1_000_000


def labelled(**labels: Any) -> bytes:
    """Returns a plain alert with these labels, of any type."""
    return json.dumps({"labels": {"alertname": "Bad"} | labels}, separators=(",", ":")).encode()


POISON: dict[str, tuple[bytes | None, bytes]] = {
    "not JSON": (b"garbage", b"not JSON"),
    "cut off": (b'{"labels": {"alertname": "Bad"}', b"not JSON"),
    "two documents": (labelled() * 2, b"not JSON"),
    "not UTF-8": (b'{"labels": {"alertname": "\xff"}}', b"not UTF-8"),
    "not UTF-8 in an unused field": (b'{"labels": {"alertname": "Bad"}, "other": "\xc3"}', b"not UTF-8"),
    "UTF-16": (labelled().decode().encode("utf-16"), b"not UTF-8"),
    "byte order mark": (b"\xef\xbb\xbf" + labelled(), b"byte order mark"),
    "binary": (bytes(range(256)) * 4, b"not UTF-8"),
    "a word": (b'"Down"', b"expected"),
    "a number": (b"42", b"expected"),
    "null": (b"null", b"expected"),
    "a label that is a number": (labelled(pod=1), b"labels.pod"),
    "a label that is an object": (labelled(pod={"a": "b"}), b"labels.pod"),
    "a label that is null": (labelled(pod=None), b"labels.pod"),
    "a label without a name": (labelled(**{"": "x"}), b"without a name"),
    "labels are a list": (b'{"labels": ["alertname", "Bad"]}', b"expected object"),
    "labels are null": (b'{"labels": null}', b"no labels"),
    "labels are empty": (b'{"labels": {}}', b"no alertname"),
    "labels have empty values": (b'{"labels": {"alertname": ""}}', b"no labels"),
    "no labels": (b'{"annotations": {"summary": "Bad"}}', b"no known format"),
    "annotations are a word": (b'{"labels": {"alertname": "Bad"}, "annotations": "x"}', b"annotations"),
    "an annotation that is a number": (b'{"labels": {"a": "b"}, "annotations": {"n": 1}}', b"annotations.n"),
    "status is a number": (b'{"labels": {"alertname": "Bad"}, "status": 5}', b"status"),
    "status is unknown": (b'{"labels": {"alertname": "Bad"}, "status": "broken"}', b"status"),
    "one of three is wrong": (record(alert(), {"labels": {"alertname": 1}}, alert()), b"[1].labels.alertname"),
    "webhook without alerts": (b'{"version": "4", "alerts": []}', b"contains no alerts"),
    "empty list": (b"[]", b"contains no alerts"),
    "empty value": (b"", b"no value"),
    "tombstone": (None, b"no value"),
    "NaN": (b'{"labels": {"alertname": "Bad"}, "value": NaN}', b"not JSON"),
    "infinite label": (b'{"labels": {"alertname": Infinity}}', b"not JSON"),
    "huge label number": (b'{"labels": {"alertname": 1e999}}', b"labels.alertname"),
    "lone surrogate": (b'{"labels": {"alertname": "\\ud800"}}', b"surrogate"),
    "lone surrogate in a name": (b'{"labels": {"\\udfff": "x"}}', b"surrogate"),
    "surrogates as UTF-8": (b'{"labels": {"alertname": "\xed\xa0\x80"}}', b"not UTF-8"),
    "raw NUL": (b'{"labels": {"alertname": "\x00"}}', b"not JSON"),
    "only NUL": (b"\x00" * 1000, b"not JSON"),
    "deep list": (b"[" * 10_000 + b"]" * 10_000, b"expected object"),
    "deep labels": (b'{"labels":' * 10_000 + b"1" + b"}" * 10_000, b"nested too deeply"),
    "deep in an unused field": (
        b'{"labels": {"alertname": "Bad"}, "x": ' + b'{"x":' * 10_000 + b"1" + b"}" * 10_001,
        b"nested too deeply",
    ),
    "deep in a label": (b'{"labels": {"alertname": ' + b"[" * 10_000 + b"]" * 10_000 + b"}}", b"nested too deeply"),
    "label of 1 MB": (labelled(pod="x" * MB), b"at most"),
    "name of 1 MB": (labelled(**{"x" * MB: "y"}), b"at most"),
    "5,000 labels": (labelled(**{f"l{n}": "v" for n in range(5000)}), b"at most 256"),
    "annotation of 1 MB": (b'{"labels": {"a": "b"}, "annotations": {"s": "%s"}}' % (b"x" * MB), b"at most"),
    "10 MB of junk": (b"\xf0\x9f\x94\xa5" * (10 * MB // 4), b"not JSON"),
    "10 MB in a label": (labelled(pod="y" * 10 * MB), b"at most"),
    "10 MB of braces": (b'{"labels":' * MB, b"nested too deeply"),
}
"""Values that are not alerts, each with a part of the reason for its refusal."""

VALID: dict[str, bytes] = {
    "emoji": labelled(alertname="🔥 Down 🧑‍🚒", pod="🐳-1"),
    "emoji escaped": b'{"labels": {"alertname": "\\ud83d\\udd25 Escaped"}}',
    "NUL escaped": b'{"labels": {"alertname": "N\\u0000L", "pod": "\\u0000"}}',
    "control characters": labelled(alertname="C\x01\x1f\x7f\u0085\u2028", pod="a\nb\tc"),
    "right to left": labelled(alertname="نظام معطل", pod="\u202ereversed"),
    "combining": labelled(alertname="Zalgo" + "\u0301\u0327" * 500),
    "beyond the first plane": labelled(alertname="\U0010ffff\U000e0001"),
    "only signs": labelled(alertname="{}[]\"'\\,:=~!"),
    "quotes and braces": labelled(alertname='a="b"}', pod="x\\y"),
    "strange label names": labelled(**{"with space": "1", "ünïcode": "2", "a.b/c": "3", "\n": "4"}),
    "duplicate keys": b'{"labels": {"alertname": "First"}, "labels": {"alertname": "Second"}}',
    "duplicate labels": b'{"labels": {"alertname": "A", "pod": "p", "alertname": "Last"}}',
    "huge numbers in unused fields": b'{"labels": {"alertname": "Huge"}, "value": 1e999, "n": -%s}' % (b"9" * 4000),
    "label of 60 KB": labelled(alertname="Long", path="x" * 60_000),
    "alertname of 60 KB": labelled(alertname="Long" * 15_000),
    "256 labels": labelled(**{f"l{n}": "v" for n in range(255)}),
    "white space": b" \r\n\t" + labelled(alertname="Space") + b"\n" * 1000,
    "no alertname": b'{"labels": {"severity": "critical"}, "status": "firing"}',
    "unknown severity": labelled(alertname="Odd", severity="apocalyptic"),
    "annotation of 200 KB": b'{"labels": {"alertname": "Long"}, "annotations": {"s": "%s"}}' % (b"x" * 200_000),
    "invalid times": b'{"labels": {"alertname": "T"}, "status": "firing", "startsAt": "yesterday", "endsAt": ""}',
    "bad fingerprint": b'{"labels": {"alertname": "F"}, "fingerprint": "../../etc/passwd"}',
    "looks like a number": labelled(alertname="1e999", pod="-0", cluster="NaN"),
}
"""Values that look malformed but are alerts."""


def outcome(dead: Any) -> tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]]]:
    """Returns the key, the value and the headers of the original record."""
    return dead.key, dead.value, [header for header in dead.headers if not header[0].startswith("stormfold-")]


async def dead_letters(settings: Settings) -> dict[str, Any]:
    """Returns the records of `alerts-dlq` by source position, of which none is there twice."""
    found = await read_topic(settings, settings.alerts_dlq_topic)
    by_source = {dict(dead.headers)["stormfold-origin"].decode(): dead for dead in found}
    assert len(by_source) == len(found)
    return by_source


def assert_running(pipeline: Pipeline) -> None:
    """Asserts that every worker runs, and that none has logged a traceback."""
    assert all(worker.poll() is None for worker in pipeline.workers.running)
    assert "Traceback" not in pipeline.logs()


async def test_poison_is_kept_with_its_reason_and_the_next_alert_is_counted(pipeline: Pipeline, past: int) -> None:
    """Every kind of poison is in `alerts-dlq` as it came, with its reason and its source position."""
    settings = pipeline.settings
    sent: list[Sent] = []
    sources: dict[str, str] = {}
    good: list[tuple[int, dict[str, Any]]] = []
    offsets: Counter[int] = Counter()
    for number, (name, (value, _)) in enumerate(POISON.items()):
        time, partition = past + 100 * number, number % 3
        sources[name] = f"{settings.alerts_topic}-{partition}-{offsets[partition]}"
        offsets[partition] += 2
        headers = (("trace", name.encode()), ("trace", b"\xff\x00"), ("empty", None))
        follower = alert("After", pod=f"pod-{number}")
        sent += [Sent(time, value, partition, name.encode(), headers), Sent(time, record(follower), partition)]
        good.append((time, follower))
    await pipeline.publish(sent)

    pipeline.start()
    await pipeline.assert_aggregates(pipeline.model(good), dead_letters=len(POISON))
    dead = await dead_letters(settings)

    expected = {sources[s.key.decode()]: (s.key, s.value, list(s.headers)) for s in sent if s.key is not None}
    assert {source: outcome(record) for source, record in dead.items()} == expected
    reasons = {name: dict(dead[source].headers)["stormfold-reason"] for name, source in sources.items()}
    assert [(name, reasons[name]) for name, (_, part) in POISON.items() if part not in reasons[name]] == []
    assert_running(pipeline)


async def test_unusual_but_valid_alerts_are_counted_under_their_labels(pipeline: Pipeline, past: int) -> None:
    sent = [Sent(past + n, value, n % 3) for n, value in enumerate(VALID.values())]
    await pipeline.publish(sent)

    pipeline.start()
    model = pipeline.model((s.time, json.loads(s.value or b"")) for s in sent)
    await pipeline.assert_aggregates(model, dead_letters=0)
    assert_running(pipeline)


async def test_records_without_key_and_value_or_with_any_headers_are_dead_letters_as_they_came(
    pipeline: Pipeline, past: int
) -> None:
    """No headers, headers named like stormfold's own, and two thousand headers."""
    settings = pipeline.settings
    spoof: Headers = (("stormfold-origin", b"elsewhere-0-7"), ("stormfold-reason", b"none"), ("stormfold-cut", None))
    many: Headers = tuple((f"h{n}", b"x" * 100) for n in range(2000))
    kinds: tuple[Headers, ...] = ((), spoof, many)
    async with AIOKafkaProducer(**client_options(settings), max_batch_size=MB) as producer:
        for headers in kinds:
            batch = producer.create_batch()
            batch.append(key=None, value=None, timestamp=past, headers=list(headers))
            batch.append(key=None, value=record(alert("After")), timestamp=past)
            await (await producer.send_batch(batch, settings.alerts_topic, partition=1))

    pipeline.start()
    await pipeline.assert_aggregates(pipeline.model([(past, alert("After"))] * 3), dead_letters=3)
    dead = await dead_letters(settings)
    for number, headers in enumerate(kinds):
        found = dead[f"{settings.alerts_topic}-1-{2 * number}"]
        # An empty key may replace no key, because the client publishes no record with neither key nor value.
        assert (found.key or None, found.value) == (None, None)
        assert found.headers[: len(headers)] == headers
        assert [name for name, _ in found.headers[len(headers) :]] == ["stormfold-reason", "stormfold-origin"]


async def test_a_dead_letter_too_large_for_its_topic_is_recorded_by_source_position_and_reason(
    settings: Settings, tmp_path: Any, past: int
) -> None:
    """The dead letters after it arrive whole."""

    def shrunk(topic: Any) -> Any:
        if topic.name != settings.alerts_dlq_topic:
            return topic
        small = (s._replace(value="100000") if s.name == "max.message.bytes" else s for s in topic.settings)
        return dataclasses.replace(topic, settings=tuple(small))

    async with open_admin(settings) as admin:
        await create(
            admin,
            [shrunk(one) for one in wanted_topics(settings, PARTITIONS, producer_timestamps=True, max_record=12 * MB)],
        )
    # It cannot be compressed to the limit.
    noise = b"x" + b64encode(random.Random(1).randbytes(9 * MB))
    large = [Sent(past, noise[:size], 0, b"key", (("trace", b"1"),)) for size in (200_000, 2 * MB, 11 * MB)]
    with Workers(settings, tmp_path) as workers:
        pipeline = Pipeline(settings, workers)
        await pipeline.publish([*large, Sent(past, b"x" * 50_000, 0, b"key"), Sent(past, record(alert()), 0)])
        # Compressed it fits in both topics.
        await pipeline.publish([Sent(past, b" " * 45 * MB, 0), Sent(past, record(alert()), 0)], "gzip")
        pipeline.start()
        await pipeline.assert_aggregates(pipeline.model([(past, alert())] * 2), dead_letters=5)
        assert_running(pipeline)

    dead = await dead_letters(settings)
    for offset in (0, 1, 2):
        source = f"{settings.alerts_topic}-0-{offset}"
        assert (dead[source].key, dead[source].value) == (source.encode(), None)
        assert b"not JSON" in dict(dead[source].headers)["stormfold-reason"]
    assert outcome(dead[f"{settings.alerts_topic}-0-3"]) == (b"key", b"x" * 50_000, [])
    assert outcome(dead[f"{settings.alerts_topic}-0-5"]) == (None, b" " * 45 * MB, [])


async def test_alerts_compressed_with_any_codec_of_kafka_are_read(pipeline: Pipeline, past: int) -> None:
    alerts = []
    for number, codec in enumerate(("gzip", "snappy", "lz4", "zstd")):
        packed = [(past + 1000 * number + n, alert(f"Packed {codec}", pod=f"pod-{n % 7}")) for n in range(300)]
        await pipeline.publish([Sent(time, record(one), n % 3) for n, (time, one) in enumerate(packed)], codec)
        alerts += packed

    pipeline.start()
    await pipeline.assert_aggregates(pipeline.model(alerts))


async def test_alerts_of_committed_transactions_count_and_those_of_aborted_ones_do_not(
    pipeline: Pipeline, past: int
) -> None:
    """The control records of transactions block nothing."""
    settings = pipeline.settings
    async with AIOKafkaProducer(**client_options(settings), transactional_id=settings.group_prefix) as producer:
        for number in range(6):
            await producer.begin_transaction()
            value = record(*[alert("Kept" if number % 2 else "Aborted", pod=f"pod-{n}") for n in range(10)])
            for partition in range(PARTITIONS):
                await producer.send_and_wait(settings.alerts_topic, value, partition=partition, timestamp_ms=past)
            await (producer.commit_transaction() if number % 2 else producer.abort_transaction())

    pipeline.start()
    kept = [(past, alert("Kept", pod=f"pod-{n}")) for _ in range(9) for n in range(10)]
    await pipeline.assert_aggregates(pipeline.model(kept))


NOT_UTF8 = b"tr\xff\xc3ce"
"""A header name that the clients of this test cannot send."""


async def send_raw(settings: Settings, topic: str, records: list[tuple[Sent, bool]], codec: int = 0) -> None:
    """Sends one record batch; the marked records have a first header with the name `NOT_UTF8`."""
    builder = _DefaultRecordBatchBuilderPy(2, codec, 0, -1, -1, 0, MB)
    for offset, (sent, marked) in enumerate(records):
        headers = [*([("tr__ce", b"1")] if marked else []), *sent.headers]
        builder.append(offset, sent.time, sent.key, sent.value, headers)
    builder._buffer = builder._buffer.replace(b"tr__ce", NOT_UTF8)
    async with AIOKafkaProducer(**client_options(settings)) as producer:
        batch = producer.create_batch()
        for sent, _ in records:
            batch.append(key=sent.key, value=sent.value, timestamp=sent.time)
        batch.close()
        batch._buffer = builder.build()
        await (await producer.send_batch(batch, topic, partition=records[0][0].partition))


async def test_header_names_that_are_not_utf8_make_dead_letters_and_stop_no_worker_or_command(
    pipeline: Pipeline, past: int
) -> None:
    """Neighbours in the batch are counted. The dead letter has the name escaped, and is counted when redriven."""
    settings = pipeline.settings
    own: Headers = (("trace", b"\xff"), ("empty", None))
    good = []
    dead_at: dict[str, Sent] = {}
    for partition, codec in enumerate((0, 1, 4)):
        pods = [alert("After", pod=f"pod-{partition}-{n}") for n in range(4)]
        bad = [(Sent(past, record(alert("Dead", pod=f"pod-{n}")), partition, b"key", own), True) for n in range(2)]
        fine = [(Sent(past + n, record(pod), partition), False) for n, pod in enumerate(pods)]
        batch = [*fine[:2], bad[0], fine[2], bad[1], fine[3]]
        await send_raw(settings, settings.alerts_topic, batch, codec)
        good += [(past + n, pod) for n, pod in enumerate(pods)]
        dead_at |= {f"{settings.alerts_topic}-{partition}-{at}": batch[at][0] for at in (2, 4)}

    pipeline.start()
    await pipeline.assert_aggregates(pipeline.model(in_order(good)), dead_letters=6)

    for topic in (settings.keyed_topic, settings.storms_topic, settings.alerts_dlq_topic):
        await send_raw(settings, topic, [(Sent(past, b"junk", 0, b"key"), True)])
    audited = await stormfold(settings, "audit")
    listed = json.loads((await stormfold(settings, "dlq", "-o", "json")).stdout)
    shown = await stormfold(settings, "storms", "--class", "all")

    assert audited.returncode == shown.returncode == 0
    escaped = r"tr\xff\xc3ce"
    reasons = {letter["origin"]: letter["reason"] for letter in listed}
    assert {reasons[source] for source in dead_at} == {f"not UTF-8: the name of a header, here {escaped}"}
    dead = [found for found in await pipeline.read(settings.alerts_dlq_topic) if found.value != b"junk"]
    for found in dead:
        sent = dead_at[dict(found.headers)["stormfold-origin"].decode()]
        assert outcome(found) == (sent.key, sent.value, [(escaped, b"1"), *own])

    again = [word for source in dead_at for word in ("--origin", source)]
    assert "Published 6 rec" in (await stormfold(settings, "dlq", "redrive", *again, "--yes")).stdout
    assert_balanced(await pipeline.audit(), open=6, dead_letters=6, foreign=2)
    assert_running(pipeline)
