"""`stormfold demo`: in a pipe, on a terminal, interrupted, and in a folder with other content."""

import asyncio
import os
import re
import signal
import subprocess
from collections import Counter
from collections.abc import Collection
from pathlib import Path

import pytest
import yaml

from stormfold.config import loads
from stormfold.local.demo import CONFIG
from stormfold.local.incident import incident
from stormfold.local.kafka import EmbeddedKafka
from stormfold.settings import Settings
from stormfold.storm import Aggregate
from tests.integration.local.picture import PICTURE, lines, picture
from tests.integration.local.running import COMMAND, STOP_SECONDS, Running, environment, on_terminal, pids, servers
from tests.support.incident import expected
from tests.support.model import Counts, counts_of, keyed_model
from tests.support.pipeline import aggregates


async def test_the_demo_writes_a_manifest_for_exactly_the_storms_of_its_incident(tmp_path: Path) -> None:
    """Without a terminal it prints plain lines. On a slow machine a group can have more than one aggregate."""
    with Running(tmp_path, "demo", "--seed", "3", "--keep") as demo:
        assert demo.wait() == 0
    lines = demo.printed
    assert not any(character < " " for character in lines if character != "\n")
    assert "Counted exactly once" in lines
    alerts = re.search(r"A simulated incident of ([\d,]+) alerts and 1 invalid record,", lines)
    assert alerts and f"{alerts[1]} in " in lines
    assert all(line in lines for line in CONFIG.splitlines())
    folder = tmp_path / "stormfold-demo"
    assert loads((folder / "stormfold.yaml").read_text(), "written") == loads(CONFIG, "own")
    manifests = [yaml.safe_load(path.read_text()) for path in (folder / "storms").glob("*.yaml")]
    specs = [manifest["spec"] for manifest in manifests]
    counted = Counter({spec["pattern"]: 0 for spec in specs})
    for spec in specs:
        counted[spec["pattern"]] += spec["alertCount"]
    assert f"\n{len(specs)} manifests stand for {counted.total():,} alerts: " in lines
    assert servers(tmp_path) == []
    model, found = await kept(tmp_path / "data" / "demo")
    assert {one.name: counts_of(one) for one in found} == model
    storms = Counter({one.name: one.alert_count for one in found if one.aggregate_class == "Storm"})
    assert storms == {manifest["metadata"]["name"]: manifest["spec"]["alertCount"] for manifest in manifests}
    groups = expected(incident(3, 0))
    alerts_of: Counter[str] = Counter()
    for one in found:
        alerts_of[one.pattern] += one.alert_count
    assert alerts_of == {name: group.alerts for name, group in groups.items()}
    if len(found) == len(groups):
        assert counted == {name: group.alerts for name, group in groups.items() if group.aggregate_class == "Storm"}


async def kept(folder: Path) -> tuple[dict[str, Counts], Collection[Aggregate]]:
    """The aggregates that the keyed topic of a demo gives, and those that it published."""
    kafka = EmbeddedKafka(folder / "kafka")
    await asyncio.to_thread(kafka.start)
    try:
        settings = Settings(kafka_bootstrap_servers=kafka.bootstrap)
        return await keyed_model(settings, loads(CONFIG, "demo")), (await aggregates(settings)).values()
    finally:
        await asyncio.to_thread(kafka.kill)


def test_the_live_picture_is_replaced_by_the_summary(tmp_path: Path) -> None:
    """The picture in the README shows the same headings and last lines; `python -m tests.integration.local.picture`
    takes it again. The demo leaves neither data nor servers behind."""
    text = on_terminal(tmp_path, "demo")
    assert [path.name for path in (tmp_path / "data").iterdir()] == []
    assert servers(tmp_path) == []
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


@pytest.mark.parametrize("server", ["kafka", "redis"])
def test_the_demo_ends_with_a_server(tmp_path: Path, server: str) -> None:
    """It exits with 1 within seconds, names the log and the data, and keeps both."""
    with Running(tmp_path, "demo") as demo:
        demo.wait_for("node-7 stops responding")
        os.kill(pids(tmp_path)[server], signal.SIGKILL)
        assert demo.wait(STOP_SECONDS) == 1
    assert servers(tmp_path) == []
    data = tmp_path / "data" / "demo"
    log = data / server / f"{server}.log"
    assert f"stormfold: {server.capitalize()} has ended: killed by SIGKILL\n  -> read {log};" in demo.printed
    assert f"`stormfold up --data {data}` continues" in demo.printed
    assert "Traceback" not in demo.printed and log.exists()


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
