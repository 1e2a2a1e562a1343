"""`stormfold up` takes alerts over HTTP."""

import json
import re
import urllib.request
from pathlib import Path

from stormfold.local.demo import CONFIG
from tests.integration.local.running import STOP_SECONDS, Running, default_port_in_use


def test_alerts_posted_to_the_printed_address_become_a_storm(tmp_path: Path) -> None:
    """The default port is in use, so any other is taken."""
    (tmp_path / "stormfold.yaml").write_text(CONFIG)
    alerts = [{"labels": {"alertname": "DiskFull", "cluster": "prod", "node": f"n{number}"}} for number in range(12)]
    with default_port_in_use(9095), Running(tmp_path, "up", "--config", "stormfold.yaml") as up:
        up.wait_for("appears here")
        found = re.search(r"over HTTP +(http://127.0.0.1:\d+/alerts)$", up.printed, re.MULTILINE)
        assert found and ":9095" not in found[1]
        with urllib.request.urlopen(found[1], json.dumps(alerts).encode()) as answer:  # noqa: S310
            assert json.loads(answer.read()) == {"records": 1, "invalid": 0}
        up.wait_for('DiskFull{cluster="prod"}, 12 alerts')
        up.interrupt()
        assert up.wait(STOP_SECONDS) == 0


def test_up_without_a_receiver(tmp_path: Path) -> None:
    with Running(tmp_path, "up", "--no-receive") as up:
        up.wait_for("appears here")
        assert re.search(r"over HTTP +off$", up.printed, re.MULTILINE)
        up.interrupt()
        assert up.wait(STOP_SECONDS) == 0
