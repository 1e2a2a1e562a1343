"""What is fuzzed: each target takes any bytes, and fails if what reads them does anything but what it promises."""

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec
import yaml

from stormfold.alert import Alert
from stormfold.cli.alert_file import read
from stormfold.config import Config, ConfigError, dump, loads
from stormfold.decoding import Malformed, Poison, decode_annotations, decode_labels
from stormfold.errors import ActionRequired
from stormfold.fingerprint import fingerprint
from stormfold.formats import parse
from stormfold.group import group_id, pattern
from stormfold.in_memory import InMemoryFold
from stormfold.kafka.committed import CommitMetadata
from stormfold.keyed_record import MARKS, Marks, decode_marks, encode_alert, encode_marks
from stormfold.manifest import decode_manifest, encode_manifest, to_manifest
from stormfold.merge import LatePolicy, Merger
from stormfold.redis.layout import pack_row
from stormfold.redis.script import pack
from stormfold.routing import MatcherError, all_match, parse_matchers
from stormfold.series import SeriesReader
from stormfold.sinks import block_yaml, validate_identity
from stormfold.storm import Aggregate
from stormfold.times import format_timestamp
from stormfold.window import Rebuild, Windows
from tests.support.storms import AWKWARD, manifest

NOW = 1_767_225_600_000
EVER, LAST = Rebuild(-(2**62), -(2**62)), 2**70
"""A rebuild that leaves nothing out, and a watermark that nothing is after."""
TESTDATA = Path(__file__).parents[1] / "unit" / "testdata"
RECORDS = [path.read_bytes() for path in sorted((TESTDATA / "formats").iterdir())]
LABELS = {"alertname": "Down", "cluster": "c", "severity": "critical", "pod": "api-1", "namespace": "payments"}
ALERT = msgspec.json.encode({"labels": LABELS, "annotations": {"summary": "x" * 300}, "status": "firing"})
MAX_RESOURCE = 1_500_000
"""Bytes of the largest object that Kubernetes keeps."""

Headers = Sequence[tuple[str, bytes]]


class Target(NamedTuple):
    """`run` takes any bytes; `seeds` show the fuzzer what the good ones look like."""

    run: Callable[[bytes], None]
    seeds: Callable[[], Iterable[bytes]]


@dataclass(slots=True)
class Keyed:
    """A record of `alerts-by-fingerprint`, as far as it is read."""

    offset: int
    value: bytes | None


def keyed_values(config: Config, value: bytes, headers: Headers = ()) -> list[bytes]:
    """What intake sends on for a record; raises `Poison`."""
    found = SeriesReader(config).parse(value, headers, NOW)
    return [
        encode_alert(
            keyed.body_at(NOW), NOW, alert.resolved, False, 0, 0, index, not keyed.qualifies(alert.starts_at, NOW)
        )
        for index, (keyed, alert) in enumerate(found)
    ]


def storms(config: Config, values: Iterable[bytes]) -> list[Aggregate]:
    """The storms of keyed records. Redis takes what is folded; each storm is a file and a resource, and read back."""
    records = [Keyed(offset, value) for offset, value in enumerate(values)]
    pack([pack_row(row) for row in Merger(config.windows).merge({0: records}, {}, LatePolicy()).rows])
    refold = InMemoryFold(config.windows, EVER, config.max_fingerprints, config.max_resources)
    refold.fold(0, records)
    found = list(refold.close(LAST))
    assert sum(storm.alert_count for storm in found) == refold.alerts
    for storm in found:
        whole, encoded = to_manifest(storm), encode_manifest(storm)
        assert len(encoded) < MAX_RESOURCE
        assert decode_manifest(encoded) == storm
        assert yaml.load(block_yaml.dump(whole), yaml.CSafeLoader) == whole
    return found


def fit(found: Iterable[Aggregate]) -> None:
    """Sinks take these storms."""
    for storm in found:
        assert validate_identity(to_manifest(storm), storm.name) == (storm.namespace, storm.name)


def assert_printable(error: Exception) -> None:
    """Asserts that a reason can be shown, sent and stored."""
    assert str(error)
    str(error).encode()


def record(data: bytes) -> None:
    """A record of `alerts`: poison, or alerts that come out as storms. Headers, if any, are lines before a NUL."""
    value, head = data, []
    if b"\0" in data:
        before, _, value = data.partition(b"\0")
        head = [line.partition(b":") for line in before.split(b"\n")]
    headers = [(name.decode(errors="surrogateescape"), content) for name, _, content in head]
    try:
        alerts = parse(value, headers, NOW)
        values = keyed_values(Config(), value, headers)
    except Poison as reason:
        assert_printable(reason)
        assert str(reason).isprintable() and len(str(reason)) < 600
        return
    assert len(values) == len(alerts)
    fit(storms(Config(), values))
    for alert in alerts:
        # A plain alert does not name its object, nor the mapping that read it.
        assert parse(plain(alert), (), NOW) == [msgspec.structs.replace(alert, about=None, mapping=None)]


def plain(alert: Alert) -> bytes:
    """An alert as a plain record, written by somebody else."""
    labels, annotations = msgspec.Raw(alert.labels), msgspec.Raw(alert.annotations)
    status = "resolved" if alert.resolved else "firing"
    start = None if alert.starts_at is None else format_timestamp(alert.starts_at)
    return msgspec.json.encode(
        {
            "labels": labels,
            "annotations": annotations,
            "status": status,
            "fingerprint": alert.fingerprint,
            "startsAt": start,
        }
    )


def record_seeds() -> Iterator[bytes]:
    yield from RECORDS
    for path in sorted((TESTDATA / "mappings").iterdir()):
        yield from (msgspec.json.encode(sample["record"]) for sample in yaml.safe_load(path.read_text()))
    yield ALERT
    yield b"ce_specversion:1.0\nce_id:1\0" + ALERT
    yield from (b"content-type:application/cloudevents+json\0" + value for value in RECORDS if b"specversion" in value)


def matchers(data: bytes) -> None:
    """Matchers: refused with a reason, or written so that they are read back."""
    try:
        found = parse_matchers(data.decode(errors="ignore"))
    except MatcherError as error:
        assert str(error)
        return
    assert parse_matchers(",".join(map(str, found))) == found
    all_match(found, LABELS)


def matcher_seeds() -> Iterator[bytes]:
    for line in (TESTDATA / "matchers.jsonl").read_bytes().splitlines():
        yield msgspec.json.decode(line)[0].encode()


def configuration(data: bytes) -> None:
    """A configuration: refused with reasons, or written so that it is read back, and alerts become storms under it."""
    try:
        config = loads(data.decode(errors="ignore"), "stormfold.yaml")
    except ConfigError as error:
        assert error.problems and all(error.problems)
        return
    assert loads(dump(config), "stormfold.yaml") == config
    fit(storms(config, keyed_values(config, ALERT)))


def configuration_seeds() -> Iterator[bytes]:
    return (path.read_bytes() for path in sorted((TESTDATA / "config").iterdir()))


def keyed(data: bytes) -> None:
    """A record of `alerts-by-fingerprint`: passed over, or folded; either way the one after it is."""
    (good,) = keyed_values(Config(), ALERT)
    assert sum(storm.alert_count for storm in storms(Config(), [data, good])) in (1, 2)
    if data[:1] == bytes((MARKS,)):
        try:
            marks = decode_marks(data)
        except Malformed:
            return
        assert decode_marks(encode_marks(marks)) == marks


def keyed_seeds() -> Iterator[bytes]:
    for value in RECORDS:
        yield from keyed_values(Config(), value)
    yield encode_marks(Marks(3, {0: NOW, 1: NOW - 5, 2: 0}))


def storm(data: bytes) -> None:
    """A record of `storms`: no storm, or one that is written and read back."""
    try:
        found = decode_manifest(data)
    except Malformed:
        return
    assert decode_manifest(encode_manifest(found)) == found


def storm_seeds() -> Iterator[bytes]:
    yield msgspec.json.encode(manifest())
    for value in RECORDS:
        yield from map(encode_manifest, storms(Config(), keyed_values(Config(), value)))


def labels(data: bytes) -> None:
    """Labels, texts apart by NULs: who an alert is and which group is its depend on nothing but what they are."""
    texts = data.decode(errors="ignore").split("\0")
    found = dict(zip(texts[::2], texts[1::2], strict=False))
    turned = dict(reversed(found.items()))
    assert fingerprint(found) == fingerprint(turned)
    assert int(fingerprint(found), 16).to_bytes(8) == bytes.fromhex(fingerprint(found))
    group = group_id("default", found, False)
    assert group == group_id("default", turned, False) != group_id("default", found, True)
    assert len(group) == 20 and group.isascii() and group.replace("-", "a").replace("_", "a").isalnum()
    assert pattern(found) == pattern(turned)
    value = msgspec.json.encode({"labels": found})
    try:
        (alert,) = parse(value, (), NOW)
        understood = decode_labels(alert.labels)
        decode_annotations(alert.annotations)
    except Poison as reason:
        assert_printable(reason)
        return
    assert understood == {name: text for name, text in found.items() if text}
    fit(storms(Config(), keyed_values(Config(), value)))


def label_seeds() -> Iterator[bytes]:
    yield "\0".join(text for label in LABELS.items() for text in label).encode()
    yield "\0".join(AWKWARD).encode()


def note(data: bytes) -> None:
    """What some client has committed: a note, or counts as none."""
    found = CommitMetadata.decode(data.decode(errors="ignore"))
    assert CommitMetadata.decode(found.encode()) == found


def note_seeds() -> Iterator[bytes]:
    yield CommitMetadata().encode().encode()
    yield CommitMetadata(event_time=NOW, offset_base=7, timestamp=NOW).encode().encode()
    yield (
        CommitMetadata(
            closed_before=NOW,
            horizon=NOW,
            state_version=3,
            keyed_partitions=12,
            windows=Windows(),
            windows_since=NOW,
            timestamp=NOW,
        )
        .encode()
        .encode()
    )


def document(data: bytes) -> None:
    """A file to publish: refused with its line, or records of the same alerts."""
    try:
        found = list(read(io.BytesIO(data), "file"))
    except ActionRequired as stop:
        assert str(stop)
        return
    assert found
    for part in found:
        try:
            parse(part.value, (), NOW)
        except Poison as reason:
            assert_printable(reason)


def document_seeds() -> Iterator[bytes]:
    yield from RECORDS
    yield b"\n".join([ALERT] * 3)


TARGETS: Mapping[str, Target] = {
    "record": Target(record, record_seeds),
    "labels": Target(labels, label_seeds),
    "keyed": Target(keyed, keyed_seeds),
    "storm": Target(storm, storm_seeds),
    "note": Target(note, note_seeds),
    "matchers": Target(matchers, matcher_seeds),
    "configuration": Target(configuration, configuration_seeds),
    "document": Target(document, document_seeds),
}
