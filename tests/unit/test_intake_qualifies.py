"""Intake and the keyed alert agree on which alerts qualify; intake also counts the reasons."""

import pytest

from stormfold.alert import Alert
from stormfold.config import Config
from stormfold.series import SeriesReader
from stormfold.stages.intake import _Chunk

NOW = 2_000_000


@pytest.mark.parametrize("severity", ["critical", "bananas", "info"])
@pytest.mark.parametrize("starts_at", [None, 0, NOW - 900_001, NOW - 900_000, NOW, NOW + 1])
def test_intake_decides_news_like_the_keyed_alert(severity: str, starts_at: int | None) -> None:
    chunk = _Chunk()
    alert = Alert(b'{"alertname": "A", "severity": "%b"}' % severity.encode(), starts_at=starts_at)
    keyed = SeriesReader(Config()).keyed(alert)
    assert chunk.qualifies(keyed, alert, NOW) is keyed.qualifies(starts_at, NOW)
    certain = starts_at is not None and 0 <= NOW - starts_at <= keyed.certain_for
    assert certain is (severity == "critical" and starts_at in (NOW - 900_000, NOW))
    assert chunk.severity_unknown == (severity == "bananas")
    assert chunk.start_unknown == (starts_at is None or starts_at > NOW)
    assert chunk.old == (starts_at in (0, NOW - 900_001))
