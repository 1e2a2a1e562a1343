"""Times and durations: milliseconds inside, RFC 3339 and Prometheus' durations outside."""

import re
from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_DAY = 86_400_000
_UNITS = {"y": 365 * _DAY, "w": 7 * _DAY, "d": _DAY, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}
_FORMAT_UNITS = ("h", "m", "s", "ms")
_DURATION = re.compile("".join(rf"(?:(?P<{unit}>[0-9]{{1,9}}){unit})?" for unit in _UNITS))
YEAR = _UNITS["y"]
"""365 days, in milliseconds."""


def to_milliseconds(moment: datetime) -> int:
    """Milliseconds since the Unix epoch of a time with an offset."""
    return (moment - EPOCH) // _MILLISECOND


def format_timestamp(milliseconds: int) -> str:
    """Milliseconds since the Unix epoch as RFC 3339 in UTC."""
    moment = EPOCH + milliseconds * _MILLISECOND
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_timestamp(text: str) -> int:
    """Milliseconds since the Unix epoch of an RFC 3339 time; raises `ValueError` or `OverflowError`.

    A time without an offset is UTC.
    """
    moment = datetime.fromisoformat(text)
    return to_milliseconds(moment if moment.tzinfo else moment.replace(tzinfo=UTC))


def format_duration(milliseconds: int) -> str:
    """A duration as the configuration file has it: `1m30s`."""
    parts = []
    left = milliseconds
    for unit in _FORMAT_UNITS:
        count, left = divmod(left, _UNITS[unit])
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def parse_duration(text: str) -> int | None:
    """Milliseconds of a duration such as `1m30s`; None if it is not one."""
    found = _DURATION.fullmatch(text) if text else None
    if found is None:
        return None
    return sum(int(count) * _UNITS[unit] for unit, count in found.groupdict(default="0").items())
