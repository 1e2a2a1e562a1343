"""The commands of the quickstart."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import yaml

from tests.integration.deploy.test_docs import blocks
from tests.integration.local.running import STOP_SECONDS, Running, environment
from tests.support.servers import until

PAGE = Path(__file__).parents[3] / "docs" / "quickstart.md"


async def test_every_command_of_the_quickstart_works(tmp_path: Path) -> None:
    """They end in the storm that the page describes. `make demo` has tests of its own."""
    (tmp_path / ".venv").symlink_to(sys.prefix)
    demo, first, second, third, last = blocks(PAGE)
    assert "make demo" in demo

    def typed(lines: str, **exported: str) -> str:
        return subprocess.run(
            ["bash", "-euc", lines], cwd=tmp_path, env=environment(tmp_path) | exported, capture_output=True, text=True,
            check=True,
        ).stdout  # fmt: skip

    configure, up = first.splitlines()
    typed(configure)
    with Running(tmp_path, *shlex.split(up)[1:]) as running:
        running.wait_for("appears here")
        exported = dict(re.findall(r"export (\w+)=(\S+)", running.printed))
        assert typed(second, **exported).count("24 alerts in 24 records") == 1
        (manifest,) = await until(lambda: list((tmp_path / "storms").glob("*.yaml")), what="the manifest")
        shown = typed(third, **exported)
        assert (
            "Counted exactly once: 24 alerts = 24 in 1 storm + 0 dead letters." in shown
            and 'DiskFull{cluster="prod"}' in shown
        )
        spec = yaml.safe_load(manifest.read_text())["spec"]
        assert (spec["alertCount"], spec["distinctAlerts"], spec["resourceCount"]) == (24, 12, 12)
        running.interrupt()
        assert running.wait(STOP_SECONDS) == 0
    created = "ls -d quick quick.yaml alerts.json storms"
    assert typed(created)
    assert not typed(f"{last}\n{created} 2>/dev/null || true")
