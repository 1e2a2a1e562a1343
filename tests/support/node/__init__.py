"""One real node of Kubernetes, in namespaces of its own.

kubelet, scheduler, controller manager and proxy are built from the Go module of the API server, DNS from CoreDNS's;
containerd, runc and the network plugins are Debian's. Nothing can be pulled, so images are imported. It changes nothing
on this machine: mounts, network, processes and control groups are the node's own, and end with it. Needs root, and
control groups of version 1.
"""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from string import Template
from typing import NamedTuple

import pytest

from stormfold.local.process import cache_dir
from tests.support.apiserver import ApiServer, program
from tests.support.gobuild import build
from tests.support.namespaces import Network
from tests.support.node import images, inside

COREDNS = "v1.15.0"
ADDRESS = "10.40.0.1"
"""The node, and everything on it that pods use: API server and DNS."""
START_SECONDS = 180.0
COMMAND_SECONDS = 240.0
NAMESPACES = "unshare", "--mount", "--pid", "--net", "--uts", "--fork", "--kill-child", "--mount-proc"
PLUGINS = Path("/usr/lib/cni")
NEEDED = "containerd", "containerd-shim-runc-v2", "runc", "ctr", "iptables", "ip", "unshare", "cc"
CONFIGURATION = Path(__file__).parent / "configuration"


class Programs(NamedTuple):
    """Programs that are built from their Go modules once."""

    kubectl: Path
    kubelet: Path
    scheduler: Path
    controllers: Path
    proxy: Path
    dns: Path


def programs() -> Programs:
    """Returns the programs, and builds those that are not cached. Raises `CannotBuild`."""
    return Programs(
        kubectl=program("kubectl"),
        kubelet=program("kubelet"),
        scheduler=program("kube-scheduler"),
        controllers=program("kube-controller-manager"),
        proxy=program("kube-proxy"),
        dns=build(cache_dir() / "coredns" / COREDNS / "coredns", f"github.com/coredns/coredns@{COREDNS}"),
    )


class NodeServer(ApiServer):
    """An API server that pods reach, with service accounts."""

    host = ADDRESS
    place = (f"--advertise-address={ADDRESS}", "--bind-address=0.0.0.0", "--kubelet-preferred-address-types=InternalIP")


class Node:
    """A cluster of one node, with its data below `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server = NodeServer(folder / "api")
        self.pid = 0
        """The first process in the node's namespaces, by its number outside."""
        self.network = Network(0)
        """Calls functions in the network of the node."""
        self._process: subprocess.Popen[str] | None = None
        self._programs = programs()
        self._socket = folder / "run" / "containerd.sock"

    def start(self) -> None:
        """Starts everything and waits until the node is ready. Fails the test with the logs otherwise."""
        with (self.folder / "node.log").open("wb") as log:
            self._process = subprocess.Popen(
                [*NAMESPACES, "python3", "-IS", inside.__file__, self.folder, ADDRESS],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        assert self._process.stdout
        if self._process.stdout.readline() != "ready\n":
            self._fail("its namespaces are not prepared")
        unshare = self._process.pid
        self.pid = int(Path(f"/proc/{unshare}/task/{unshare}/children").read_text())
        self.network = Network(self.pid)
        self.network(self.server.start)
        self._configure()
        self._run("containerd", "containerd", "--config", "containerd.toml")
        self._wait("containerd answers", "ctr", "--address", str(self._socket), "version")
        self.import_image("pause:1", images.pause)
        admin = f"--kubeconfig={self.server.kubeconfig()}"
        key = self.folder / "api" / "service-account.key"
        self._run(
            "controllers", self._programs.controllers, admin, "--leader-elect=false",
            f"--service-account-private-key-file={key}", f"--root-ca-file={self.server.certificates}",
        )  # fmt: skip
        self._run("scheduler", self._programs.scheduler, admin, "--leader-elect=false")
        self._run(
            "kubelet", self._programs.kubelet, admin, "--config=kubelet.yaml", "--root-dir=/var/lib/kubelet",
            "--hostname-override=node", f"--node-ip={ADDRESS}",
        )  # fmt: skip
        self._run("proxy", self._programs.proxy, "--config=proxy.yaml", "--hostname-override=node")
        self._run("dns", self._programs.dns, "-conf=Corefile")
        self._wait("the node is ready", *self._kubectl("wait", "--for=condition=Ready", "node/node", "--timeout=1s"))

    def stop(self) -> None:
        """Ends everything and removes the node's control groups."""
        self.server.kill()
        if self._process is None:
            return
        # The first process of the namespaces is killed with its parent, and all others with it.
        self._process.kill()
        self._process.wait()
        while Path(f"/proc/{self.pid}").exists() and self.pid:
            time.sleep(0.05)
        self.network.close()
        for group in inside.GROUPS.glob(f"**/{inside.root(self.folder)}"):
            for path, _, _ in os.walk(group, topdown=False):
                _remove(Path(path))

    def kubectl(self, *words: str | Path, stdin: str = "", seconds: float = COMMAND_SECONDS) -> str:
        """Runs kubectl as the administrator; returns its output, and fails the test with it otherwise."""
        done = self._called(*self._kubectl(*words), stdin=stdin, seconds=seconds)
        assert done.returncode == 0, f"kubectl {' '.join(map(str, words))}\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
        return done.stdout

    def try_kubectl(self, *words: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Runs kubectl as the administrator; it may fail."""
        return self._called(*self._kubectl(*words), stdin=stdin)

    def import_image(self, name: str, make: images.Maker) -> None:
        """Imports an image of the file system that `make` creates."""
        archive = self.folder / "image.tar"
        images.write(archive, f"docker.io/library/{name}", make, self.folder / "image")
        ctr = "ctr", "--address", str(self._socket), "--namespace", "k8s.io"
        done = self._called(*ctr, "images", "import", "--no-unpack", archive)
        assert done.returncode == 0, done.stderr
        archive.unlink()

    def task(self, container: str) -> int:
        """Returns the number of a container's first process, in the processes of the node."""
        listed = self._called("ctr", "--address", str(self._socket), "--namespace", "k8s.io", "tasks", "list").stdout
        (found,) = (int(line.split()[1]) for line in listed.splitlines() if line.startswith(container))
        return found

    def signal(self, process: int, name: str) -> None:
        """Sends a signal to a process of the node."""
        words = "nsenter", "--pid", "--mount", "--target", str(self.pid), "sh", "-c", f"kill -{name} {process}"
        done = self._called(*words)
        assert done.returncode == 0, done.stderr

    def logs(self) -> str:
        """Returns the ends of all logs of the node."""
        return "".join(f"\n{log.name}:\n{log.read_text()[-3000:]}" for log in sorted(self.folder.glob("*.log")))

    def _kubectl(self, *words: str | Path) -> Sequence[str | Path]:
        return self._programs.kubectl, f"--kubeconfig={self.server.kubeconfig()}", *words

    def _configure(self) -> None:
        values: Mapping[str, str] = {
            "address": ADDRESS,
            "plugins": str(PLUGINS),
            "socket": str(self._socket),
            "folder": str(self.folder),
            "kubeconfig": str(self.server.kubeconfig()),
        }
        for path in CONFIGURATION.iterdir():
            (self.folder / path.name).write_text(Template(path.read_text()).substitute(values))

    def _run(self, name: str, *command: str | Path) -> None:
        assert self._process and self._process.stdin
        self._process.stdin.write(json.dumps([name, [str(word) for word in command]]) + "\n")
        self._process.stdin.flush()

    def _called(
        self, *words: str | Path, stdin: str = "", seconds: float = COMMAND_SECONDS
    ) -> subprocess.CompletedProcess[str]:
        return self.network(
            lambda: subprocess.run(
                words, input=stdin, capture_output=True, text=True, timeout=seconds, check=False, cwd=self.folder
            )
        )

    def _wait(self, what: str, *command: str | Path) -> None:
        deadline = time.monotonic() + START_SECONDS
        while self._called(*command).returncode:
            assert self._process
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._fail(f"not true: {what}")
            time.sleep(0.2)

    def _fail(self, message: str) -> None:
        pytest.fail(f"the node does not start: {message}{self.logs()}")


def _remove(group: Path) -> None:
    """Removes a control group, whose processes may still be ending."""
    deadline = time.monotonic() + 10
    while True:
        try:
            group.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


@contextmanager
def node(folder: Path) -> Iterator[Node]:
    """Runs a node. Skips the test where programs or rights are missing, which CI does not accept."""
    missing = [name for name in NEEDED if shutil.which(name) is None]
    missing += [str(path) for path in (PLUGINS, inside.GROUPS / "memory") if not path.exists()]
    if missing or os.geteuid() != 0:
        pytest.skip(f"a node needs root, and: {', '.join(missing) or 'everything else is here'}")
    made = Node(folder)
    try:
        made.start()
        yield made
    finally:
        made.stop()
        shutil.rmtree(folder)


def remains(folder: Path) -> list[str]:
    """Returns what a stopped node has left on this machine: files, control groups, processes, mounts, network rules."""
    found = [str(folder)] if folder.exists() else []
    found += map(str, inside.GROUPS.glob(f"**/{inside.root(folder)}"))
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):
            if str(folder) in (process / "cmdline").read_text(errors="replace"):
                found.append(str(process))
    found += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(folder) in line]
    rules = subprocess.run(["iptables", "-t", "nat", "-S"], capture_output=True, text=True, check=True).stdout
    return found + [line for line in rules.splitlines() if "KUBE-" in line]
