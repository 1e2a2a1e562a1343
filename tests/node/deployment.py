"""stormfold in a cluster: commands that an operator types, and requests that senders make."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

from tests.support.node import Node

WORKER, RECEIVE = "deployment/stormfold", "deployment/stormfold-receive"
NAME = "app.kubernetes.io/name"
ROLLOUT_SECONDS = 180


def until(condition: Callable[[], Any], what: str, seconds: float = 120) -> Any:
    """Waits until a condition holds; returns its value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.3)
    return value


@dataclass
class Deployment:
    """The namespace `storms` of a node."""

    node: Node

    def kubectl(self, *words: str, stdin: str = "") -> str:
        """Runs kubectl in the namespace; returns its output."""
        return self.node.kubectl("--namespace", "storms", *words, stdin=stdin)

    def get(self, *words: str) -> Any:
        """Returns an object, or the objects of a list."""
        found = json.loads(self.kubectl("get", *words, "--output", "json"))
        return found["items"] if found["kind"] == "List" else found

    def stormfold(self, *words: str, stdin: str = "") -> str:
        """Runs a command in a worker's pod; returns its output."""
        return self.kubectl("exec", "--stdin", WORKER, "--", "stormfold", *words, stdin=stdin)

    def rolled_out(self, *names: str) -> None:
        """Waits until all pods of Deployments are new and ready."""
        for name in names:
            self.kubectl("rollout", "status", name, f"--timeout={ROLLOUT_SECONDS}s")

    def pods(self, name: str = "stormfold") -> list[Any]:
        """Returns the pods of a name that are not being deleted."""
        found = self.get("pods", "--selector", f"{NAME}={name}")
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def started(self) -> list[str]:
        """Returns the names of the workers' pods whose program has passed its first probe."""
        return [
            pod["metadata"]["name"]
            for pod in self.pods()
            if any(status["started"] for status in pod["status"].get("containerStatuses", []))
        ]

    def ready(self) -> list[str]:
        """Returns the names of the workers' pods that are ready."""
        return [pod["metadata"]["name"] for pod in self.pods() if condition(pod, "Ready") == "True"]

    def evict(self, pod: str) -> str:
        """Asks for the eviction of a pod; returns the reason if it is refused."""
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": "storms"}}
        path = f"/api/v1/namespaces/storms/pods/{pod}/eviction"
        done = self.node.try_kubectl("create", "--raw", path, "--filename", "-", stdin=json.dumps(body))
        return done.stderr if done.returncode else ""

    def audit(self) -> dict[str, Any]:
        """Returns the report of `stormfold audit` when no group is open. Fails if an alert is missing."""

        def closed() -> Any:
            (found,) = json.loads(self.stormfold("audit", "--wait", "120", "--output", "json"))
            return found if found["open"] == 0 else None

        report: dict[str, Any] = until(closed, "all groups are closed")
        assert report["balanced"] and report["expired"] == report["dead_letters"] == 0, report
        return report

    def process(self, pod: str) -> int:
        """Returns the number of a pod's program, in the processes of the node."""
        (status,) = self.get("pod", pod)["status"]["containerStatuses"]
        return self.node.task(status["containerID"].rpartition("/")[2])

    def status(self, pod: str, file: str = "status") -> str:
        """Returns what the kernel knows of a pod's program, from its folder in /proc."""
        return Path("/proc", str(self.node.pid), "root", "proc", str(self.process(pod)), file).read_text()


def condition(thing: Any, kind: str) -> str:
    """Returns the status of a condition of a pod: `True`, `False` or `Unknown`."""
    return next((each["status"] for each in thing["status"].get("conditions", []) if each["type"] == kind), "Unknown")


@dataclass
class Sender:
    """Sends one alert after the other to the receivers' Service, and each again until it is accepted."""

    url: str
    before: int
    """Alerts in Kafka before the first of this sender."""
    accepted: int = 0
    repeated: int = 0
    """Requests that were sent again: their alerts may count twice."""
    _stop: Event = field(default_factory=Event)

    def run(self) -> None:
        """Runs until `stop` is called and the last alert is accepted."""
        while not self._stop.is_set():
            alert = {"labels": {"alertname": "Steady", "pod": f"p{self.before + self.accepted}"}}
            while not post(f"{self.url}/alerts", alert):
                self.repeated += 1
                time.sleep(0.2)
            self.accepted += 1
            time.sleep(0.1)

    def stop(self) -> None:
        """Ends it after the alert in hand."""
        self._stop.set()


def post(url: str, body: Any) -> bool:
    """Sends a request; returns whether it is accepted."""
    request = urllib.request.Request(url, json.dumps(body).encode())  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=15) as answer:  # noqa: S310
            return bool(answer.status == 200)
    except OSError:
        return False
