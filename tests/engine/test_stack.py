"""docker-compose.yml, run by a Docker engine: one story, in the order of the tests, from nothing to an upgrade.

Grafana and the two exporters are left out, and so is the profile k8s: their images cannot be had without a registry.
"""

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engine.stack import RECEIVE, SERVICES, WORKER, Sender, Stack
from tests.integration.deploy.files import COMPOSE

USERS = {"kafka": 1000, "redis": 999, "worker": 65532, "receive": 65532, "alertmanager": 65534, "prometheus": 65534}
INCIDENT = 4_705
"""Alerts that the profile producer publishes, besides a record that is not an alert."""
ALERTMANAGER, PROMETHEUS = "http://127.0.0.1:9093", "http://127.0.0.1:9090"


def until(condition: Callable[[], Any], what: str, seconds: float = 120) -> Any:
    """Waits until a condition holds; returns its value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.5)
    return value


@pytest.fixture
def sender(stack: Stack, request: pytest.FixtureRequest) -> Iterator[Sender]:
    """Alerts that arrive all the time while the test does harm; afterwards all of them are accepted."""
    made = Sender(request.function.__name__)
    done = threading.Thread(target=lambda: stack.engine.inside(made.run))
    done.start()
    yield made
    made.give_up()
    done.join(60)
    assert not done.is_alive()


def assert_all_counted(stack: Stack, sender: Sender, folder: Path) -> None:
    """Asserts that the alerts of a sender are counted once, and those that it sent again at most once more.

    The alerts about the harm itself come from Prometheus, and are counted too.
    """
    sender.stop()
    until(lambda: sender.ended, "the last alert is accepted")
    counts = written(stack, folder)
    assert sender.accepted <= counts[sender.name] <= sender.accepted + sender.repeated


def written(stack: Stack, folder: Path) -> Counter[str]:
    """Returns the alerts in the manifests by name, when every aggregate is one. Prometheus may send more until then."""

    def complete() -> Counter[str] | None:
        counts, report = stack.counts(folder), stack.audit()
        assert report["expired"] == 0
        return counts if counts.total() == report["aggregated"] else None

    found: Counter[str] = until(complete, "every aggregate is a manifest", 300)
    return found


def test_one_command_starts_everything_from_nothing(stack: Stack) -> None:
    assert stack.healths() == dict.fromkeys(SERVICES, "healthy")
    until(lambda: stack.fetch(f"{WORKER}/readyz")[0] == 200, "the worker is ready")
    assert stack.container("topics")["State"]["ExitCode"] == 0


def test_the_producers_incident_becomes_manifests_in_the_volume(stack: Stack, tmp_path: Path) -> None:
    stack.compose("--profile", "producer", "up", "--detach")
    until(lambda: stack.container("producer")["State"]["Status"] == "exited", "the incident is published")
    assert stack.container("producer")["State"]["ExitCode"] == 0
    assert stack.audit()["dead_letters"] == 1

    def complete() -> bool:
        counts = stack.counts(tmp_path / "storms")
        # Prometheus may have sent alerts about the start of the stack; the announced incident comes back.
        own = sum(count for name, count in counts.items() if name.startswith(("Stormfold", "AlertIncident")))
        return counts.total() - own == INCIDENT

    until(complete, "every alert is in a manifest")


def test_an_alert_takes_the_way_from_alertmanager_to_a_manifest(stack: Stack, tmp_path: Path) -> None:
    """Prometheus knows Alertmanager, which sends to the receiver."""
    found = json.loads(stack.fetch(f"{PROMETHEUS}/api/v1/alertmanagers")[1])["data"]["activeAlertmanagers"]
    assert [one["url"] for one in found] == ["http://alertmanager:9093/api/v2/alerts"]
    alerts = [{"labels": {"alertname": "DiskFull", "cluster": "prod", "node": f"n{number}"}} for number in range(20)]
    assert stack.fetch(f"{ALERTMANAGER}/api/v2/alerts", alerts)[0] == 200

    def arrived() -> bool:
        specs = [one["spec"] for one in stack.manifests(tmp_path / "storms")]
        return any(one["class"] == "Storm" and one["groupLabels"].get("alertname") == "DiskFull" for one in specs)

    until(arrived, "the storm is a manifest")
    stack.audit()


def test_prometheus_reads_worker_and_receiver(stack: Stack) -> None:
    def up() -> bool:
        targets = json.loads(stack.fetch(f"{PROMETHEUS}/api/v1/targets")[1])["data"]["activeTargets"]
        found = {one["labels"]["job"] for one in targets if one["health"] == "up"}
        return {"stormfold", "stormfold-receive"} <= found

    until(up, "both are read")


@pytest.mark.parametrize("service", SERVICES)
def test_a_container_has_the_limits_of_the_file_and_no_privileges(stack: Stack, service: str) -> None:
    """As the kernel has them, not only as the engine was asked for them."""
    container = stack.container(service)
    process = stack.engine.process(container["State"]["Pid"])
    status = (process / "status").read_text()
    assert re.search(r"^CapEff:\t0+$", status, re.MULTILINE) and re.search(r"^CapBnd:\t0+$", status, re.MULTILINE)
    assert re.search(r"^NoNewPrivs:\t1$", status, re.MULTILINE)
    assert re.search(rf"^Uid:\t{USERS[service]}\t", status, re.MULTILINE)
    root = re.search(r"^\S+ \S+ \S+ / / (\S+)", (process / "mountinfo").read_text(), re.MULTILINE)
    assert root and ("ro" in root[1].split(",")) == (service != "kafka")
    limits = process / "root/sys/fs/cgroup"
    limit = next(path for path in (limits / "memory/memory.limit_in_bytes", limits / "memory.max") if path.exists())
    assert int(limit.read_text()) == container["HostConfig"]["Memory"] > 0
    # The init process reaps what health checks leave behind.
    assert "init" in (process / "comm").read_text()


def test_ports_are_open_on_loopback_only(stack: Stack) -> None:
    """In the tables of the kernel: 0A is a listening socket, 0100007F is 127.0.0.1."""
    ports = {int(port.split(":")[-1]) for port in re.findall(r'ports: \["([\d.:]+)"\]', COMPOSE.read_text())}
    found: dict[int, str] = {}
    for table in ("tcp", "tcp6"):
        lines = Path(f"/proc/{stack.engine.pid}/net/{table}").read_text().splitlines()[1:]
        listening = [line.split()[1].split(":") for line in lines if line.split()[3] == "0A"]
        found |= {int(port, 16): address for address, port in listening}
    # Those of Grafana and of the profile k8s are not there. The engine's own resolver is elsewhere.
    assert {port for port in found if port in ports} == ports - {3000, 6443}
    assert set(found.values()) == {"0100007F"}


def test_frozen_servers_are_unhealthy_and_what_needs_them_is_not(stack: Stack) -> None:
    """Worker and receiver stay alive without Kafka and Redis, are not ready, and the receiver refuses alerts."""
    for service in ("kafka", "redis"):
        stack.engine.signal(f"stormfold-{service}-1", "STOP")
    try:
        until(lambda: set(stack.healths(("kafka", "redis")).values()) == {"unhealthy"}, "both are unhealthy")
        status, text = stack.fetch(f"{RECEIVE}/alerts", {"labels": {"alertname": "Never"}})
        assert status == 503, text
        assert stack.fetch(f"{WORKER}/readyz")[0] == 503
        assert set(stack.healths(("worker", "receive", "alertmanager", "prometheus")).values()) == {"healthy"}
    finally:
        for service in ("kafka", "redis"):
            stack.engine.signal(f"stormfold-{service}-1", "CONT")
    until(lambda: set(stack.healths().values()) == {"healthy"}, "all are healthy")
    until(lambda: stack.fetch(f"{WORKER}/readyz")[0] == 200, "the worker is ready")


def test_frozen_programs_are_unhealthy(stack: Stack) -> None:
    frozen = ("worker", "receive", "alertmanager", "prometheus")
    for service in frozen:
        stack.engine.signal(f"stormfold-{service}-1", "STOP")
    try:
        until(lambda: set(stack.healths(frozen).values()) == {"unhealthy"}, "all are unhealthy")
        assert set(stack.healths(("kafka", "redis")).values()) == {"healthy"}
    finally:
        for service in frozen:
            stack.engine.signal(f"stormfold-{service}-1", "CONT")
    until(lambda: set(stack.healths().values()) == {"healthy"}, "all are healthy")


def test_books_balance_after_every_service_was_killed_and_restarted(
    stack: Stack, sender: Sender, tmp_path: Path
) -> None:
    """One after the other, while alerts arrive. The engine starts again what was killed."""
    for service in SERVICES:
        started = stack.container(service)["State"]["StartedAt"]
        stack.engine.signal(f"stormfold-{service}-1", "KILL")

        def healthy(service: str = service) -> bool:
            return stack.health(service) == "healthy"

        def again(service: str = service, started: str = started) -> bool:
            return bool(stack.container(service)["State"]["StartedAt"] != started) and healthy()

        until(again, f"{service} runs again")
        stack.compose("restart", "--timeout", "20", service)
        until(healthy, f"{service} is healthy")
    assert_all_counted(stack, sender, tmp_path)


def test_data_survive_down_and_up(stack: Stack, tmp_path: Path) -> None:
    before = stack.audit()
    stack.compose("--profile", "producer", "down")
    stack.up()
    after = stack.audit()
    # Prometheus sends alerts about the restart.
    assert after["alerts"] >= before["alerts"] > INCIDENT
    written(stack, tmp_path / "storms")


def test_open_groups_are_rebuilt_when_the_volume_of_redis_is_lost(stack: Stack, sender: Sender, tmp_path: Path) -> None:
    """As the page describes it."""
    until(lambda: sender.accepted > 20, "alerts arrive")
    stack.compose("rm", "--stop", "--force", "redis")
    stack.engine.docker("volume", "rm", "stormfold_redis")
    stack.up()
    assert_all_counted(stack, sender, tmp_path)


def test_down_with_volumes_leaves_nothing(stack: Stack) -> None:
    stack.compose("--profile", "producer", "down", "--volumes")
    assert stack.engine.docker("volume", "ls", "--quiet").split() == []
    assert stack.engine.docker("ps", "--all", "--quiet").split() == []
    stack.up()
    assert stack.audit()["alerts"] < INCIDENT


def test_the_image_works_under_any_user_of_group_0(stack: Stack) -> None:
    """As OpenShift runs it: another user in each namespace, without a name or a home."""
    options = ["--user", "1000660000:0", "--network", "stormfold_default"]
    options += ["--read-only", "--tmpfs", "/tmp:mode=1777"]  # noqa: S108
    options += ["--cap-drop", "ALL", "--security-opt", "no-new-privileges:true"]
    name = "any-user"
    engine = stack.engine
    engine.docker(
        *("run", "--detach", "--name", name, *options, "--volume", "any-user:/storms"),
        *(
            "--env",
            "STORMFOLD_KAFKA_BOOTSTRAP_SERVERS=kafka:19092",
            "--env",
            "STORMFOLD_REDIS_URL=redis://redis:6379/0",
        ),
        *("--env", "STORMFOLD_SINK=directory:/storms", "stormfold:0.1.0"),
    )
    try:
        until(lambda: engine.inspect(name)["State"]["Health"]["Status"] == "healthy", "the worker is healthy")
        ready = "import http.client as h; c = h.HTTPConnection('127.0.0.1:8080'); c.request('GET', '/readyz'); "
        ready += "print(c.getresponse().status)"
        until(lambda: engine.docker("exec", name, "python", "-c", ready).strip() == "200", "the worker is ready")
        write = "from pathlib import Path; Path('/storms/x').touch()"
        engine.docker("exec", name, "python", "-c", write)
        assert "balanced" in engine.docker("exec", name, "stormfold", "audit", "-o", "json")
    finally:
        print(engine.docker("logs", name))
        engine.docker("rm", "--force", "--volumes", name)
