"""Every alert fires when it has to, doesn't when it hasn't, ends when it is over, and is explained."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.files import ROOT
from tests.monitoring.cases import CASES, Case
from tests.monitoring.rules import JOB, RESOURCE, RULES, RUNBOOK, resource, rules, sections
from tests.support import gobuild
from tests.support.prometheus import programs, promtool
from tests.web.metrics_page import names

FOREIGN = {"up", "kafka_consumergroup_lag"}
"""Metrics of Prometheus itself and of the Kafka exporter."""
ALERTS = {rule["alert"]: rule for group in rules()["groups"] for rule in group["rules"]}


@pytest.fixture(scope="module", autouse=True)
def built(request: pytest.FixtureRequest) -> None:
    """Builds promtool where it is not cached."""
    gobuild.built(request.config, programs)


def test_rules_are_valid() -> None:
    """promtool takes them, without a remark."""
    said = promtool("check", "rules", "--lint=all", "--lint-fatal", RULES)
    assert said.returncode == 0, said.stdout


def test_operators_resource() -> None:
    """The Prometheus operator gets the same rules; if not: `python -m tests.monitoring.rules` writes them anew."""
    assert RESOURCE.read_text() == resource()
    assert yaml.safe_load(RESOURCE.read_text())["spec"] == rules()


def test_every_alert_has_its_cases() -> None:
    """Firing, resolving and nearly firing, for each alert and no other."""
    assert CASES.keys() == ALERTS.keys()


@pytest.mark.parametrize("alert", CASES)
def test_alert(alert: str, tmp_path: Path) -> None:
    """It fires with these labels, is over later, and never comes when things are nearly that bad."""
    case = CASES[alert]
    file = tmp_path / "test.yaml"
    tests = [_comes_and_goes(alert, case), _nearly(alert, case)]
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))
    said = promtool("test", "rules", file)
    assert said.returncode == 0, said.stdout


def test_metrics_exist() -> None:
    """What a rule asks for, somebody tells."""
    told = set(names()) | FOREIGN
    for name, rule in ALERTS.items():
        asked = set(re.findall(r"\b(?:stormfold_\w+|kafka_\w+|redis_\w+|up)\b(?!\s*\()", rule["expr"]))
        assert asked and asked <= told, (name, asked - told)


def test_job() -> None:
    """Rules that ask for a job ask for the workers'."""
    asked = {job for rule in ALERTS.values() for job in re.findall(r'\bjob="([^"]*)"', rule["expr"])}
    assert asked == {JOB}


def test_runbook() -> None:
    """Each alert leads to a section that says what it means, what to look at and what to do; there are no others."""
    said = sections()
    assert list(said) == list(ALERTS)
    for name, rule in ALERTS.items():
        assert rule["annotations"]["runbook_url"] == f"{RUNBOOK.relative_to(ROOT)}#{name.lower()}"
        assert rule["labels"]["severity"] in ("info", "warning", "critical")
        named = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["description"]))
        assert named <= set(re.findall(r"(\w+)=", CASES[name].labels)), name
        for part in ("Means", "Look", "Do"):
            assert re.search(rf"^\*\*{part}\.\*\* ", said[name], re.MULTILINE), (name, part)


def _comes_and_goes(alert: str, case: Case) -> dict[str, Any]:
    severity = ALERTS[alert]["labels"]["severity"]
    labels = f'alertname="{alert}", alertstate="firing", severity="{severity}"{case.labels and ", " + case.labels}'
    fires = [{"labels": f"ALERTS{{{labels}}}", "value": 1}]
    return _test("comes and goes", alert, case.series, {0: [], case.fires: fires, case.resolved: []})


def _nearly(alert: str, case: Case) -> dict[str, Any]:
    return _test("nearly", alert, case.near, {minute: [] for minute in range(100)})


def _test(name: str, alert: str, series: dict[str, str], firing: dict[int, list[dict[str, Any]]]) -> dict[str, Any]:
    """A test in promtool's words: what of an alert fires, by minute."""
    return {
        "name": name,
        "interval": "1m",
        "input_series": [{"series": one, "values": values} for one, values in series.items()],
        "promql_expr_test": [
            {
                "expr": f'ALERTS{{alertname="{alert}", alertstate="firing"}}',
                "eval_time": f"{minute}m",
                "exp_samples": samples,
            }
            for minute, samples in firing.items()
        ],
    }
