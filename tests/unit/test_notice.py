"""The alert that announces an incident: its labels, severity, times and annotations."""

import re

import msgspec

from stormfold.announce.notice import NEAR, RESOLVED_FOR, Look, Notices
from stormfold.correlation import Correlation, RecordPlace
from tests.docs import ROOT
from tests.support.incidents import Scoped, aggregate

T = 1_780_000_000_000
PAGE = ROOT / "docs" / "how-to" / "early-notice.md"
SCOPE = (("cluster", "eu1"),)


def storm(name: str, begin: int, *, rank: int = 2, severity: str = "warning", alerts: int = 12) -> Scoped:
    """A storm that begins that many seconds after `T`, and lasts 10 s."""
    first = T + begin * 1000
    return aggregate(
        name, "eu1", "Storm", first, first + 10_000, alerts=alerts, gap=360_000, max_length=3_600_000,
        window_gap=60_000, rank=rank, severity=severity,
    )  # fmt: skip


def look(*segments: Scoped, watermark: int = 60) -> Look:
    return Look(T + watermark * 1000, segments)


def test_an_open_storm_is_announced_with_its_scope_and_counts() -> None:
    notices = Notices("https://stormfold.example.com", "MkU3OEVBNTcwNTJENDM2Qk/stormfold")
    notices.update(look(storm("node", 0), storm("pods", 5, alerts=400)), None, Correlation(), T + 70_000)
    (alert,) = notices.alerts(T + 70_000, 60_000)
    annotations = alert.pop("annotations")
    assert alert == {
        "labels": {"alertname": "AlertIncident", "cluster": "eu1", "stormfold": "incident", "severity": "warning"},
        "startsAt": "2026-05-28T20:26:40.000Z",
        "endsAt": "2026-05-28T20:28:50.000Z",
        "generatorURL": "https://stormfold.example.com",
    }
    assert annotations["summary"] == "412 alerts in 2 storms: node{}"
    assert annotations["largest"] == "pods{} (400), node{} (12)"
    assert annotations["pipeline"] == "MkU3OEVBNTcwNTJENDM2Qk/stormfold"
    assert annotations["incident"].startswith("eu1-") and annotations["namespace"] == "storms"
    documented = re.search(r"^annotations: (.*?)\n```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert documented
    assert annotations.keys() <= set(re.findall(r"\w+", re.sub(r'"(\\.|[^"])*"', "", documented[1])))


def test_a_storm_is_not_announced_before_the_watermark_has_passed_its_first_alert() -> None:
    notices = Notices()
    notices.update(look(storm("node", 61)), None, Correlation(), T + 70_000)
    assert notices.alerts(T, 60_000) == []


def test_a_catch_up_announces_nothing_of_the_past() -> None:
    notices = Notices()
    notices.update(look(storm("node", 0)), None, Correlation(), T + 60_000 + NEAR + 1)
    assert notices.firing == {}
    notices.update(look(storm("node", 0)), None, Correlation(), T + 60_000 + NEAR)
    assert notices.firing.keys() == {SCOPE}


def test_an_incident_of_the_past_is_not_announced_while_it_waits_to_be_published() -> None:
    """After a catch-up the watermark is near the clock before everything that was read is closed and published."""
    notices, correlation = Notices(), Correlation()
    correlation.add(storm("node", -3600), RecordPlace(0, 0))
    notices.update(look(storm("pods", -3550)), None, correlation, T + 70_000)
    assert notices.firing == {}


def test_severity_rises_with_a_resolved_alert_and_never_falls() -> None:
    notices, correlation = Notices(), Correlation()
    notices.update(look(storm("node", 0)), None, correlation, T + 70_000)
    notices.update(look(storm("db", 9, rank=0, severity="critical")), None, correlation, T + 75_000)
    alerts = notices.alerts(T + 75_000, 60_000)
    assert [(one["labels"]["severity"], one["endsAt"][11:19]) for one in alerts] == [
        ("critical", "20:28:55"), ("warning", "20:27:55"),
    ]  # fmt: skip
    notices.update(look(storm("node", 0)), None, correlation, T + 80_000)
    assert notices.firing[SCOPE].severity == "critical"


def test_it_fires_until_the_incident_is_final_and_its_end_is_posted_for_a_while() -> None:
    notices, correlation = Notices(), Correlation()
    notices.update(look(storm("node", 0)), None, correlation, T + 70_000)
    correlation.add(storm("node", 0), RecordPlace(0, 0))
    end = T + 10_000 + 360_000
    notices.update(look(watermark=380), end, correlation, T + 400_000)
    assert notices.firing.keys() == {SCOPE}, "everything that can join is not closed yet"
    for forming in correlation.final(end + 1):
        correlation.know(forming.build())
    now = T + 401_000
    notices.update(look(watermark=390), end + 1, correlation, now)
    assert notices.firing == {}
    (alert,) = notices.alerts(now + 9_000, 60_000)
    assert alert["endsAt"] == "2026-05-28T20:33:21.000Z"
    notices.update(look(watermark=500), end + 1, correlation, now + RESOLVED_FOR)
    assert notices.alerts(now, 60_000) == []


def test_without_a_look_everything_that_fires_stays() -> None:
    notices = Notices()
    notices.update(look(storm("node", 0)), None, Correlation(), T + 70_000)
    notices.update(None, T + 10**9, Correlation(), T + 71_000)
    assert notices.firing.keys() == {SCOPE}


def test_annotations_are_bounded() -> None:
    long = msgspec.structs.replace(storm("node", 0), pattern="é" * 5000)
    notices = Notices()
    notices.update(look(long), None, Correlation(), T + 70_000)
    (alert,) = notices.alerts(T, 1)
    assert all(len(value.encode()) <= 1024 for value in alert["annotations"].values())
