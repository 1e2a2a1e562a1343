"""The alert rules: when they fire and resolve, and their runbook."""

import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from tests.integration.deploy.conftest import services as services
from tests.integration.deploy.conftest import tools as tools
from tests.integration.deploy.files import K8S, Programs
from tests.integration.deploy.files import built as built_overlay
from tests.integration.kubernetes.conftest import built as built
from tests.integration.monitoring.cases import CASES, Case, Series
from tests.integration.monitoring.dashboards import panels
from tests.integration.monitoring.rules import GRAFANA, JOB, REDIS_JOB, RESOURCE, RULES, resource, rules, sections
from tests.integration.web.metrics_page import names
from tests.support import gobuild
from tests.support.prometheus import programs, promtool

FOREIGN = {
    "up", "kafka_consumergroup_lag", "redis_memory_used_bytes", "redis_memory_max_bytes",
    "redis_mem_fragmentation_ratio", "redis_evicted_keys_total",
}  # fmt: skip
"""Metrics of Prometheus itself and of the exporters of the compose file."""
MINUTES = 100
"""Minutes of each case."""
THRESHOLD = r"(?<=[<>=] )[1-9][\d.e]*|0\.\d+"
"""A threshold in an expression, except 0."""
ALERTS = {rule["alert"]: rule for group in rules()["groups"] for rule in group["rules"]}


@pytest.fixture(scope="module", autouse=True)
def prometheus_built(request: pytest.FixtureRequest) -> None:
    """Builds promtool unless it is cached."""
    gobuild.built(request.config, programs)


def test_promtool_accepts_the_rules() -> None:
    output = promtool("check", "rules", "--lint=all", "--lint-fatal", RULES)
    assert output.returncode == 0, output.stdout


def test_the_prometheus_rule_has_the_same_rules() -> None:
    """Otherwise run `python -m tests.integration.monitoring.dashboards`."""
    assert RESOURCE.read_text() == resource()
    assert yaml.safe_load(RESOURCE.read_text())["spec"] == rules()


def test_every_alert_has_cases() -> None:
    assert CASES.keys() == ALERTS.keys()


@pytest.mark.parametrize("alert", CASES)
def test_an_alert_fires_and_resolves_in_time_and_only_when_it_must(alert: str, tmp_path: Path) -> None:
    rule = ALERTS[alert]
    others = {f"{alert}_{n}": other for n, other in enumerate(_others(rule))}
    file, cases = tmp_path / "rules.yaml", tmp_path / "test.yaml"
    rules = [each | {"alert": name} for name, each in {alert: rule, **others}.items()]
    file.write_text(yaml.safe_dump({"groups": [{"name": "them", "rules": rules}]}))
    tests = [test for case in CASES[alert] for test in _tests([alert, *others], alert, case)]
    cases.write_text(yaml.safe_dump({"rule_files": [str(file)], "evaluation_interval": "1m", "tests": tests}))
    output = promtool("test", "rules", cases).stdout
    failed = set(re.findall(r'alertname=\\?"(\w+)', output))
    assert alert not in failed and "FAILED" in output, output
    assert not {name: other for name, other in others.items() if name not in failed}


def test_every_metric_in_a_rule_is_exported() -> None:
    exported = set(names()) | FOREIGN
    for name, rule in ALERTS.items():
        used = set(re.findall(r"\b(?:stormfold_\w+|kafka_\w+|redis_\w+|up)\b(?!\s*\()", rule["expr"]))
        assert used and used <= exported, (name, used - exported)


def test_rules_use_only_the_jobs_of_workers_and_their_redis() -> None:
    used = {job for rule in ALERTS.values() for job in re.findall(r'\bjob="([^"]*)"', rule["expr"])}
    assert used == {JOB, REDIS_JOB}
    config = yaml.safe_load((RULES.with_name("prometheus.yml")).read_text())
    assert used <= {job["job_name"] for job in config["scrape_configs"]}


def test_every_alert_has_a_runbook_section_and_every_section_an_alert() -> None:
    runbook = sections()
    assert list(runbook) == list(ALERTS)
    for name, rule in ALERTS.items():
        assert rule["annotations"]["runbook_url"] == GRAFANA + panels()[name]
        assert rule["labels"]["severity"] in ("info", "warning", "critical")
        named = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["description"]))
        assert named <= set(re.findall(r"(\w+)=", CASES[name][0].labels)), name
        for part in ("Means", "Look", "Do"):
            assert re.search(rf"^\*\*{part}\.\*\* ", runbook[name], re.MULTILINE), (name, part)


def test_links_of_alerts_lead_to_the_configured_grafana(
    services: dict[str, Any], tools: Programs, tmp_path: Path
) -> None:
    (port,) = services["grafana"]["ports"]
    assert f"http://{port['host_ip']}:{port['published']}" == GRAFANA
    shutil.copytree(K8S, tmp_path / "k8s")
    overlay = tmp_path / "k8s" / "overlays" / "monitoring"
    file = overlay / "kustomization.yaml"
    for grafana in (GRAFANA, "https://grafana.example.org/behind/a/path"):
        assert file.read_text().count(f"[url={GRAFANA}]") == 1
        file.write_text(file.read_text().replace(f"[url={GRAFANA}]", f"[url={grafana}]"))
        manifests = built_overlay(tools.kustomize, overlay)
        (resource,) = (one for one in manifests if one["kind"] == "PrometheusRule")
        found = {rule["alert"]: rule["annotations"] for group in resource["spec"]["groups"] for rule in group["rules"]}
        assert {name: one["runbook_url"] for name, one in found.items()} == {
            name: grafana + path for name, path in panels().items()
        }
        # The line itself is not a manifest.
        assert [one["metadata"]["name"] for one in manifests if one["kind"] == "ConfigMap"] == ["stormfold-dashboards"]


def _others(rule: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Variants of the rule with one change each."""
    if "for" in rule:
        yield {key: value for key, value in rule.items() if key != "for"}
    changes: list[tuple[str, Callable[[re.Match[str]], str]]] = [
        # A threshold a tenth lower, and a tenth higher.
        (THRESHOLD, lambda m: f"{float(m[0]) * 0.9:g}"),
        (THRESHOLD, lambda m: f"{float(m[0]) * 1.1:g}"),
        (r"> 0\b(?!\.)", lambda _: ">= 0"),
        (r"(?<=offset )\d+|(?<=\[)\d+", lambda m: str(3 * int(m[0]))),
        (r"\bmax\b", lambda _: "min"),
        (r"\bmin\b", lambda _: "max"),
    ]
    # `absent` and `group` do not depend on values.
    if re.search("> [1-9]", rule["expr"]):
        changes.append((r"\bsum\b", lambda _: "max"))
    if not rule["expr"].rstrip().endswith("> 0"):
        changes.append((r"\bmax\b", lambda _: "sum"))
    for pattern, change in changes:
        for found in re.finditer(pattern, rule["expr"]):
            yield rule | {"expr": rule["expr"][: found.start()] + change(found) + rule["expr"][found.end() :]}


def _tests(names: Sequence[str], alert: str, case: Case) -> Iterator[dict[str, Any]]:
    """Tests for promtool: in exactly which minutes each of these alerts fires."""
    severity = ALERTS[alert]["labels"]["severity"]
    labels = f'alertstate="firing", severity="{severity}"{case.labels and ", " + case.labels}'
    yield _test("comes and goes", case.series, [ask for name in names for ask in _firing(name, case, labels)])
    for n, series in enumerate(case.near):
        yield _test(f"nearly, {n}", series, [_Expectation(_every(name), MINUTES) for name in names])


class _Expectation(NamedTuple):
    """An expression at a minute, and its one expected sample; None for no sample."""

    expression: str
    minute: int
    sample: dict[str, Any] | None = None


def _firing(name: str, case: Case, labels: str) -> Iterator[_Expectation]:
    labels = f'alertname="{name}", {labels}'
    for minute in (case.fires, case.resolved - 1):
        yield _Expectation(f'ALERTS{{alertname="{name}"}}', minute, {"labels": f"ALERTS{{{labels}}}", "value": 1})
    yield _Expectation(_every(name), MINUTES, {"labels": f"{{{labels}}}", "value": case.resolved - case.fires})


def _every(name: str) -> str:
    """The number of minutes for which an alert has fired."""
    return f'count_over_time(ALERTS{{alertname="{name}", alertstate="firing"}}[{MINUTES}m])'


def _test(name: str, series: Series, expectations: Iterable[_Expectation]) -> dict[str, Any]:
    return {
        "name": name,
        "interval": "1m",
        "input_series": [{"series": one, "values": values} for one, values in series.items()],
        "promql_expr_test": [
            {
                "expr": ask.expression,
                "eval_time": f"{ask.minute}m",
                "exp_samples": [ask.sample] if ask.sample else [],
            }
            for ask in expectations
        ],
    }
