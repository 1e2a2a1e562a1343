"""The result of an audit in one sentence."""

import pytest

from stormfold.audit import AuditReport


@pytest.mark.parametrize(
    ("report", "verdict"),
    [
        (
            AuditReport(1, 1, 0, 0, 1, 0, 0, 0, 0),
            "Counted exactly once: 1 alert = 1 in 1 storm + 0 dead letters.",
        ),
        (
            AuditReport(4, 2, 1, 1, 2, 1, 0, 0, 1),
            "Counted exactly once: 4 alerts and invalid records = 2 in 1 storm and 1 other aggregate + 1 dead letter,"
            " 1 in groups still open. 1 record in storms or dead letters was not written by stormfold.",
        ),
        (
            AuditReport(2000, 2000, 0, 0, 5, 3, 0, 0, 0),
            "Counted exactly once: 2,000 alerts = 2,000 in 2 storms and 3 other aggregates + 0 dead letters.",
        ),
        (
            AuditReport(2, 1, 0, 0, 1, 0, 0, 1, 0),
            "The counts do not match: 1 alert is missing. Retention has deleted 1 record of alerts.",
        ),
        (
            AuditReport(1, 1, 0, 0, 1, 0, 0, 0, 0, left_out=7),
            "Counted exactly once: 1 alert = 1 in 1 storm + 0 dead letters."
            " Not counted: 7 alerts that senders left out of webhooks (max_alerts).",
        ),
        (AuditReport(2, 4, 0, 0, 1, 0, 0, 0, 0), "The counts do not match: 2 alerts too many."),
        (
            AuditReport(2, 1, 0, 0, 1, 0, 1, 0, 0),
            "Not known yet: 1 record has not been processed; see `stormfold status`.",
        ),
    ],
)
def test_the_verdict_is_true_of_one_and_of_many(report: AuditReport, verdict: str) -> None:
    assert report.verdict == verdict
