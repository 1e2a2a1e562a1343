"""The Grafana dashboards: `python -m tests.monitoring.dashboards` writes them anew."""

import json
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from tests.deploy.files import K8S
from tests.monitoring.dashboards.lag import lag
from tests.monitoring.dashboards.redis import redis
from tests.monitoring.dashboards.storms import storms

FOLDER = K8S / "monitoring" / "dashboards"


def files() -> dict[Path, str]:
    """What each file has to say."""
    pages = {"lag": lag(), "storms": storms(), "redis": redis()}
    return {
        FOLDER / f"{name}.json": json.dumps(page, cls=JSONEncoder, indent=2, ensure_ascii=False) + "\n"
        for name, page in pages.items()
    }
