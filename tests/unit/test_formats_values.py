"""Values of an alert that senders leave empty or make very long."""

import tracemalloc

import pytest

from stormfold.decoding import Poison, decode_labels
from stormfold.formats import parse


def _read_start(text: str) -> int | None:
    (alert,) = parse(b'{"labels": {"alertname": "A"}, "startsAt": "%b"}' % text.encode(), [], 0)
    return alert.starts_at


def test_long_times_are_not_kept() -> None:
    """Times are cached, so their length must have a limit. Nanoseconds and an offset are well below it."""
    assert _read_start("2026-01-01T05:30:00.000000000+05:30") == 1_767_225_600_000
    tracemalloc.start()
    try:
        for number in range(200):
            assert _read_start(str(number) + "0" * 50_000) is None
        assert tracemalloc.get_traced_memory()[0] < 1_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("labels", "severity"),
    [
        ('{"alertname": "A"}', "critical"),
        ('{"alertname": "A", "severity": ""}', "critical"),
        ('{"severity" :"", "alertname":"A", "empty": ""}', "critical"),
        ('{"alertname": "A", "sev\\u0065rity": ""}', "critical"),
        ('{"alertname": "A", "severity": "info"}', "info"),
        ('{"alertname": "A", "severity": "info", "empty": ""}', "info"),
        ('{"alertname": "", "severity": "info"}', "info"),
    ],
)
def test_a_severity_next_to_the_labels_counts_if_theirs_is_absent_or_empty(labels: str, severity: str) -> None:
    record = f'{{"labels": {labels}, "severity": "critical", "status": "firing"}}'
    for value in (record, f"[{record}]"):
        (alert,) = parse(value.encode(), [], 0)
        assert decode_labels(alert.labels)["severity"] == severity


@pytest.mark.parametrize(
    "labels",
    ['{"pod": "a"}', '{"alertname": "", "pod": "a"}', '{"pod":"a","alertname":""}', '{"pod":"a","x":"alertname"}'],
)
def test_an_alert_of_a_webhook_without_a_name_has_the_common_one(labels: str) -> None:
    value = f'{{"alerts": [{{"labels": {labels}}}], "groupLabels": {{}}, "commonLabels": {{"alertname": "Common"}}}}'
    (alert,) = parse(value.encode(), [], 0)
    found = decode_labels(alert.labels)
    assert (found["alertname"], found["pod"]) == ("Common", "a")


def test_labels_that_are_not_valid_stay_refused() -> None:
    (alert,) = parse(b'{"labels": {"alertname": "A", "severity": "", "n": 1}, "severity": "critical"}', [], 0)
    with pytest.raises(Poison, match=r"labels\.n: expected str, got int"):
        decode_labels(alert.labels)
