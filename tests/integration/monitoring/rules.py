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
"""Of the workers in Prometheus, whoever configures it."""
REDIS_JOB = "stormfold-redis"
"""Of the exporter of the workers' Redis: there may be others that tell of other ones."""
GRAFANA = "http://127.0.0.1:3000"
"""What links of alerts begin with: the Grafana of the compose file. Its dashboards have the runbook on them."""
_HEAD = """\
# Made from k8s/monitoring/rules.yaml: python -m tests.integration.monitoring.dashboards
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: stormfold
spec:
"""


def rules() -> dict[str, Any]:
    """What Prometheus reads."""
    found: dict[str, Any] = yaml.safe_load(RULES.read_text())
    return found


def sections() -> dict[str, str]:
    """What the runbook says of each alert."""
    return dict(re.findall(r"^## (Stormfold\w+)\n(.*?)(?=^## |\Z)", RUNBOOK.read_text(), re.MULTILINE | re.DOTALL))


def resource() -> str:
    """The same for the Prometheus operator, as the file has to be."""
    # Without the comment at its head: it speaks of that file.
    lines = RULES.read_text().splitlines(keepends=True)
    return _HEAD + "".join(f"  {line}" if line.strip() else line for line in lines if not line.startswith("#"))


def linked(text: str, panels: Mapping[str, str]) -> str:
    """Rules as a file has them, each with the address of what is said of its alert; `panels` has paths in Grafana."""
    return re.sub(
        r"(- alert: (\w+)\n(?:(?!\s*- alert:).*\n)*?\s*runbook_url: ).*", lambda m: m[1] + GRAFANA + panels[m[2]], text
    )
