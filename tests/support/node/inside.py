"""The first process of a node: prepares its mounts, control groups and network, then starts and reaps programs.

It runs by its path in new namespaces for mounts, processes, the network and the host name. Arguments: the folder of the
node, and its address. Each line of stdin is a program to start: its name and its command, as JSON. It ends with stdin,
and everything in its namespaces ends with it.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
NEW_GROUPS = 0x0200_0000
"""CLONE_NEWCGROUP; `os.unshare` exists from Python 3.12."""
PRIVATE = "/run", "/var/lib", "/var/log"
"""Folders in which the programs of a node write, whatever their settings are."""
KERNEL = (
    *("kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxbytes", "kernel/keys/root_maxkeys"),
    *("vm/overcommit_memory", "vm/panic_on_oom"),
)
"""Settings of the whole machine that a kubelet changes. It gets files instead."""


def run(*words: str) -> None:
    """Runs a program, which must succeed."""
    subprocess.run(words, check=True)


def hierarchies() -> Iterator[tuple[str, str]]:
    """Yields the name of each mounted hierarchy of control groups, and the group of this process in it."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, name, group = line.split(":", 2)
        if name:
            yield name, group


def root(folder: Path) -> str:
    """Returns the name of the node's control groups."""
    return f"stormfold-node-{folder.name}"


def main(folder: Path, address: str) -> None:
    """Prepares the node, then starts programs until stdin ends."""
    names = []
    for name, group in hierarchies():
        path = GROUPS / name.removeprefix("name=") / group.lstrip("/")
        own = path / root(folder)
        own.mkdir()
        if name == "cpuset":
            for file in ("cpuset.cpus", "cpuset.mems"):
                (own / file).write_text((path / file).read_text())
        (own / "cgroup.procs").write_text("0")
        names.append(name)
    assert ctypes.CDLL(None, use_errno=True).unshare(NEW_GROUPS) == 0, os.strerror(ctypes.get_errno())
    run("umount", "--recursive", str(GROUPS))
    run("mount", "-t", "tmpfs", "tmpfs", str(GROUPS))
    for name in names:
        place = GROUPS / name.removeprefix("name=")
        place.mkdir()
        run("mount", "-t", "cgroup", "-o", f"none,{name}" if "=" in name else name, "cgroup", str(place))
    for private in PRIVATE:
        here = folder / private.replace("/", "_").lstrip("_")
        here.mkdir()
        run("mount", "--bind", str(here), private)
    for name in KERNEL:
        setting = Path("/proc/sys") / name
        copy = folder / name.replace("/", ".")
        copy.write_text(setting.read_text())
        run("mount", "--bind", str(copy), str(setting))
    run("mount", "--make-rshared", "/")
    run("hostname", "node")
    run("ip", "link", "set", "lo", "up")
    # The other end of the pair keeps the first one connected.
    run("ip", "link", "add", "node0", "type", "veth", "peer", "name", "node1")
    run("ip", "link", "set", "node1", "up")
    run("ip", "address", "add", f"{address}/24", "dev", "node0")
    run("ip", "link", "set", "node0", "up")
    run("ip", "route", "add", "default", "dev", "node0")
    # The kernel reaps the children of a process that ignores this signal.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    print("ready", flush=True)
    for line in sys.stdin:
        program, command = json.loads(line)
        with (folder / f"{program}.log").open("ab") as log:
            subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
