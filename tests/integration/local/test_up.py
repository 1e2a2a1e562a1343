"""`stormfold up`: a local stack that keeps its data."""

import json
import os
import re
import resource
import signal
import subprocess
from pathlib import Path

import pytest
import yaml

from stormfold.local.demo import CONFIG
from stormfold.settings import variable
from tests.integration.local.running import (
    COMMAND,
    STOP_SECONDS,
    Running,
    default_port_in_use,
    environment,
    pids,
    servers,
)
from tests.support.servers import until

ALERTS = "".join(
    json.dumps({"labels": {"alertname": "DiskFull", "cluster": "prod", "node": f"n{number}"}}) + "\n"
    for number in range(12)
)


def _stormfold(folder: Path, printed: str, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Runs another command against the stack, in a shell after the lines that `up` prints for it."""
    lines = re.findall("^  (?:export|unset) .+$", printed, re.MULTILINE)
    script = "\n".join([*lines, 'exec "$@"'])
    return subprocess.run(
        ["sh", "-ec", script, "sh", *COMMAND, *words], cwd=folder, env=environment(folder), input=stdin,
        capture_output=True, text=True, check=False,
    )  # fmt: skip


async def test_storms_and_alerts_survive_a_restart_of_up(tmp_path: Path) -> None:
    (tmp_path / "stormfold.yaml").write_text(CONFIG)
    words = ("up", "--config", "stormfold.yaml", "--output", "manifests")
    with Running(tmp_path, *words) as up:
        up.wait_for("appears here")
        assert len(servers(tmp_path)) == 2
        (tmp_path / "stormfold.yaml").write_text(f"{CONFIG}max_storms: 1000\n")
        up.wait_for("configuration: reloaded")
        published = _stormfold(tmp_path, up.printed, "publish", "-", stdin=ALERTS)
        assert "12 alerts in 12 records" in published.stdout, published.stderr
        (manifest,) = await until(lambda: list((tmp_path / "manifests").glob("*.yaml")), what="the manifest")
        assert yaml.safe_load(manifest.read_text())["spec"]["alertCount"] == 12
        up.wait_for('DiskFull{cluster="prod"}, 12 alerts')
        up.interrupt()
        assert up.wait(STOP_SECONDS) == 0
    assert servers(tmp_path) == []
    with Running(tmp_path, *words) as up:
        up.wait_for("appears here")
        listed = _stormfold(tmp_path, up.printed, "storms", "-o", "json")
        assert [item["spec"]["alertCount"] for item in json.loads(listed.stdout)["items"]] == [12]
        audit = _stormfold(tmp_path, up.printed, "audit", "--config", "stormfold.yaml")
        assert audit.returncode == 0, audit.stdout + audit.stderr
        up.interrupt()
        assert up.wait(STOP_SECONDS) == 0
    assert servers(tmp_path) == []


def test_commands_in_another_terminal_find_the_stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if the default port is in use, and if the environment describes other servers."""
    for name, value in {"kafka_bootstrap_servers": "127.0.0.1:1", "alerts_topic": "other", "redis_prefix": "x"}.items():
        monkeypatch.setenv(variable(name), value)
    (tmp_path / "stormfold.yaml").write_text(CONFIG)
    words = ("up", "--config", "stormfold.yaml", "--output", "manifests")
    with default_port_in_use(8080), Running(tmp_path, *words) as up:
        up.wait_for("appears here")
        assert "export STORMFOLD_HTTP_ADDRESS=127.0.0.1:" in up.printed
        state = _stormfold(tmp_path, up.printed, "status").stdout
        assert re.search(rf"^sink +directory:{tmp_path / 'manifests'}$", state, re.MULTILINE), state
        assert "none answers" not in state
        published = _stormfold(tmp_path, up.printed, "publish", "-", stdin=ALERTS)
        assert "12 alerts in 12 records" in published.stdout, published.stderr
        up.wait_for("12 alerts")
        up.interrupt()
        assert up.wait(STOP_SECONDS) == 0


def test_a_second_up_on_the_same_data_is_refused(tmp_path: Path) -> None:
    with Running(tmp_path, "up") as up:
        up.wait_for("appears here")
        second = _stormfold(tmp_path, "", "up")
        assert second.returncode == 1
        assert "in use" in second.stderr and "Traceback" not in second.stderr
        assert len(servers(tmp_path)) == 2
        up.interrupt()
        assert up.wait(STOP_SECONDS) == 0


ENDS_SECONDS = 13.0
"""`up` promises 10 s; the next larger sum of its limits is 14 s."""


def test_up_ends_while_both_servers_are_frozen(tmp_path: Path) -> None:
    """Within its own limits, also by SIGTERM; it reports which servers it had to kill."""
    with Running(tmp_path, "up") as up:
        up.wait_for("appears here")
        for pid in pids(tmp_path).values():
            os.kill(pid, signal.SIGSTOP)
        up.interrupt(signal.SIGTERM)
        assert up.wait(ENDS_SECONDS) == 0
        assert "Kafka did not stop within 3 s and was killed" in up.printed
        assert "Redis did not stop within 3 s and was killed" in up.printed
    assert servers(tmp_path) == []


def test_up_ends_when_a_server_has_ended_while_the_other_is_frozen(tmp_path: Path) -> None:
    with Running(tmp_path, "up") as up:
        up.wait_for("appears here")
        found = pids(tmp_path)
        os.kill(found["kafka"], signal.SIGSTOP)
        os.kill(found["redis"], signal.SIGKILL)
        assert up.wait(ENDS_SECONDS) == 1
        log = tmp_path / "data" / "up" / "redis" / "redis.log"
        assert f"stormfold: Redis has ended: killed by SIGKILL\n  -> read {log};" in up.printed
        assert "Traceback" not in up.printed
    assert servers(tmp_path) == []


def test_up_ends_when_kafka_has_no_disk(tmp_path: Path) -> None:
    """A limit on the size of its files has the effect of a full disk: Kafka exits."""
    with Running(tmp_path, "up") as up:
        up.wait_for("appears here")
        resource.prlimit(pids(tmp_path)["kafka"], resource.RLIMIT_FSIZE, (1_000, 1_000))
        assert up.wait(60) == 1
        log = tmp_path / "data" / "up" / "kafka" / "kafka.log"
        assert f"stormfold: Kafka has ended: exit code 1\n  -> read {log};" in up.printed
    assert servers(tmp_path) == []
