"""`stormfold demo`: in a pipe, on a terminal, interrupted, and in a folder with other content."""

import re
import signal
import subprocess
from collections import Counter
from pathlib import Path

import pytest
import yaml

from stormfold.config import loads
from stormfold.local.demo import CONFIG
from stormfold.local.incident import incident
from tests.integration.local.picture import PICTURE, lines, picture
from tests.integration.local.running import COMMAND, STOP_SECONDS, Running, environment, on_terminal, servers
from tests.support.incident import expected


def test_the_demo_writes_a_manifest_for_exactly_the_storms_of_its_incident(tmp_path: Path) -> None:
    """Without a terminal it prints plain lines. It leaves neither data nor servers behind."""
    with Running(tmp_path, "demo", "--seed", "3") as demo:
        assert demo.wait() == 0
    lines = demo.printed
    assert not any(character < " " for character in lines if character != "\n")
    assert "Counted exactly once" in lines
    alerts = re.search(r"A simulated incident of ([\d,]+) alerts and 1 invalid record,", lines)
    assert alerts and f"{alerts[1]} in " in lines
    assert all(line in lines for line in CONFIG.splitlines())
    folder = tmp_path / "stormfold-demo"
    assert loads((folder / "stormfold.yaml").read_text(), "written") == loads(CONFIG, "own")
    specs = [yaml.safe_load(path.read_text())["spec"] for path in (folder / "storms").glob("*.yaml")]
    counted = Counter({spec["pattern"]: 0 for spec in specs})
    for spec in specs:
        counted[spec["pattern"]] += spec["alertCount"]
    assert f"\n{len(specs)} manifests stand for {counted.total():,} alerts: " in lines
    groups = expected(incident(3, 0))
    assert counted == {name: group.alerts for name, group in groups.items() if group.aggregate_class == "Storm"}
    assert [path.name for path in (tmp_path / "data").iterdir()] == []
    assert servers(tmp_path) == []


def test_the_live_picture_is_replaced_by_the_summary(tmp_path: Path) -> None:
    """The picture in the README shows the same headings and last lines; `python -m tests.integration.local.picture`
    takes it again."""
    text = on_terminal(tmp_path, "demo")
    assert "○ forming" in text and "● closed" in text and "ALERTS/S" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    end = text[text.rindex("\x1b[?25h") :]
    assert "Counted exactly once" in end and "KubePodCrashLooping" in end and "○ forming" not in end
    taken, committed = lines(picture(text)), lines(PICTURE.read_text(encoding="utf-8"))
    # Only headings and the last lines: numbers and times differ.
    for part in (lambda shown: [line for line in shown if line.isupper()], lambda shown: shown[-3:]):
        assert part(taken) == part(committed) != []


@pytest.mark.parametrize("moment", ["Starting Kafka", "Starting a worker", "node-7 stops responding", "Quiet"])
def test_ctrl_c_stops_the_servers_within_seconds(tmp_path: Path, moment: str) -> None:
    """It exits with 130, leaves no server, and prints where the manifests are if there are any."""
    with Running(tmp_path, "demo") as demo:
        demo.wait_for(moment)
        assert len(servers(tmp_path)) >= 1
        demo.interrupt()
        # People press it twice.
        demo.interrupt()
        assert demo.wait(STOP_SECONDS) == 130
    assert servers(tmp_path) == []
    assert "Traceback" not in demo.printed, demo.printed
    assert "Interrupted" in demo.printed
    written = any((tmp_path / "stormfold-demo" / "storms").glob("*.yaml"))
    assert ("written so far to stormfold-demo/storms" in demo.printed) == written


def test_sigterm_with_keep_stops_the_servers_and_keeps_their_data(tmp_path: Path) -> None:
    with Running(tmp_path, "demo", "--keep") as demo:
        demo.wait_for("node-7 stops responding")
        demo.interrupt(signal.SIGTERM)
        assert demo.wait(STOP_SECONDS) == 130
    assert servers(tmp_path) == []
    assert f"stormfold up --data {tmp_path / 'data' / 'demo'}\n" in demo.printed
    assert (tmp_path / "data" / "demo" / "kafka" / "data").is_dir()


@pytest.mark.parametrize("place", ["stormfold-demo", "data/demo"])
def test_a_folder_with_other_content_is_refused_and_not_changed(tmp_path: Path, place: str) -> None:
    thesis = tmp_path / place / "storms" / "thesis.yaml"
    thesis.parent.mkdir(parents=True)
    thesis.write_text("years of work")
    done = subprocess.run(
        [*COMMAND, "demo"], cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert place in done.stderr and "Traceback" not in done.stderr
    assert thesis.read_text() == "years of work"
