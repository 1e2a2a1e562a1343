"""The alerting rules, and the PrometheusRule made from them."""

import re
from collections.abc import Mapping
from typing import Any

import yaml

from tests.integration.deploy.files import K8S, ROOT

RULES = K8S / "monitoring" / "rules.yaml"
RESOURCE = K8S / "overlays" / "monitoring" / "prometheus-rule.yaml"
RUNBOOK = ROOT / "docs" / "operations" / "runbook.md"
JOB = "stormfold"
"""Job of the workers in Prometheus."""
REDIS_JOB = "stormfold-redis"
"""Job of the exporter for the Redis of the workers. Other jobs can export other Redises."""
GRAFANA = "http://127.0.0.1:3000"
"""Base of the links of alerts: the Grafana of the compose file, whose dashboards have the runbook."""
_HEAD = """\
# Made from k8s/monitoring/rules.yaml: python -m tests.integration.monitoring.dashboards
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: stormfold
spec:
"""


def rules() -> dict[str, Any]:
    """The rules of Prometheus."""
    found: dict[str, Any] = yaml.safe_load(RULES.read_text())
    return found


def sections() -> dict[str, str]:
    """Alert → its section of the runbook."""
    return dict(re.findall(r"^## (Stormfold\w+)\n(.*?)(?=^## |\Z)", RUNBOOK.read_text(), re.MULTILINE | re.DOTALL))


def resource() -> str:
    """The file with the same rules for the Prometheus operator."""
    # Without the comment at the beginning, which describes the other file.
    lines = RULES.read_text().splitlines(keepends=True)
    return _HEAD + "".join(f"  {line}" if line.strip() else line for line in lines if not line.startswith("#"))


def linked(text: str, panels: Mapping[str, str]) -> str:
    """The text of the rules with the link of each alert set to its panel; `panels` has paths in Grafana."""
    return re.sub(
        r"(- alert: (\w+)\n(?:(?!\s*- alert:).*\n)*?\s*runbook_url: ).*", lambda m: m[1] + GRAFANA + panels[m[2]], text
    )
