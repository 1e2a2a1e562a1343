"""The summary of the demo."""

import io

import pytest
from rich.console import Console

from stormfold.audit import AuditReport
from stormfold.incident_manifest import from_manifest as from_incident_manifest
from stormfold.local.demo import Outcome
from stormfold.local.view import summary
from stormfold.manifest import from_manifest
from tests.support.incident_manifests import manifest as incident_manifest
from tests.support.storms import manifest

INCIDENT = from_incident_manifest(incident_manifest(alertCount=13_000, stormCount=2))
STORMS = [
    from_manifest(manifest("a", pattern=f'KubePodCrashLooping{{cluster="{"eu" * 30}"}}', alertCount=1819)),
    from_manifest(manifest("b", pattern="Down", alertCount=12_345, distinctAlerts=1_234, resourceCount=1_111)),
]


@pytest.mark.parametrize("width", [44, 60, 76, 77, 95, 100, 200])
@pytest.mark.parametrize("terminal", [True, False])
def test_on_any_width_only_the_pattern_is_cut(width: int, terminal: bool) -> None:
    """Every storm takes one line with all its numbers, and no line is too long."""
    shown = io.StringIO()
    console = Console(file=shown, width=width, force_terminal=terminal, color_system=None)
    console.print(summary(Outcome(AuditReport(0, 0, 0, 0, 0, 0, 0, 0, 0), STORMS, [INCIDENT], None), console))
    lines = shown.getvalue().splitlines()
    assert all(len(line) <= width for line in lines)
    for number in ("1,819", "12,345", "1,111"):
        assert sum(number in line.split() for line in lines) == 1, shown.getvalue()
    assert sum("Kube" in line for line in lines) == 1 and ("\N{HORIZONTAL ELLIPSIS}" in shown.getvalue()) == (
        width < 130
    )
    assert "13,000 alerts, 2 storms, 1 incident; it started with" in " ".join(shown.getvalue().split())
