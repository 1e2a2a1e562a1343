"""The Grafana dashboards; `python -m tests.integration.monitoring.dashboards` writes them and what links to them."""

import json
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from tests.integration.deploy.files import K8S
from tests.integration.monitoring.dashboards.lag import lag
from tests.integration.monitoring.dashboards.redis import redis
from tests.integration.monitoring.dashboards.storms import storms

FOLDER = K8S / "monitoring" / "dashboards"
_FOREIGN = ("auto", "auto_min", "auto_count", "footer")
"""Defaults that the SDK writes for variables and tables, and that Grafana 12 does not know."""


def files() -> dict[Path, str]:
    """Path and content of each file."""
    pages = {"lag": lag(), "storms": storms(), "redis": redis()}
    return {FOLDER / f"{name}.json": _encode(page) for name, page in pages.items()}


def panels() -> dict[str, str]:
    """Alert → path of its runbook panel in Grafana."""
    pages = [json.loads(text) for text in files().values()]
    return {
        panel["title"]: f"/d/{page['uid']}?viewPanel=panel-{panel['id']}"
        for page in pages
        for panel in page["panels"]
        if panel["type"] == "text"
    }


def _encode(page: Dashboard) -> str:
    plain = json.loads(json.dumps(page, cls=JSONEncoder), object_pairs_hook=_without_unknown)
    return json.dumps(plain, indent=2, ensure_ascii=False) + "\n"


def _without_unknown(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name: value for name, value in pairs if name not in _FOREIGN}
