"""Values of an alert that senders leave empty or make very long."""

import tracemalloc

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
