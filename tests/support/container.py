"""The first program of a container without an engine: makes the world that an image is promised, becomes its user.

Runs alone, by its path, in namespaces of its own for mounts, processes and the network. Arguments: the image's root,
and `Start` as JSON.
"""

import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import TypedDict

DEVICES = "null", "zero", "random", "urandom"
SET_FLAGS = 0x8914
"""SIOCSIFFLAGS; Python does not name it."""
UP = 1
"""IFF_UP."""


class Start(TypedDict):
    """What to become."""

    command: list[str]
    environment: dict[str, str]
    folder: str
    user: int
    group: int
    tmp: str
    """The size of /tmp, the only place that can be written to."""
    started: str
    """The file, outside, that gets the number by which the others know this process."""


def mount(*words: str) -> None:
    """Mounts, for this process and its children only."""
    subprocess.run(["mount", *words], check=True)


def main(root: str, start: Start) -> None:
    """Does not return."""
    # /proc is still that of the outside.
    Path(start["started"]).write_text(str(Path("/proc/self").readlink()))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SET_FLAGS, struct.pack("16sH22x", b"lo", UP))
    mount("--bind", root, root)
    mount("-t", "proc", "proc", f"{root}/proc")
    mount("-t", "tmpfs", "-o", f"mode=1777,size={start['tmp']}", "tmpfs", f"{root}/tmp")  # noqa: S108
    mount("-t", "tmpfs", "-o", "mode=755,size=64k", "tmpfs", f"{root}/dev")
    for name in DEVICES:
        Path(f"{root}/dev/{name}").touch()
        mount("--bind", f"/dev/{name}", f"{root}/dev/{name}")
    mount("-o", "remount,bind,ro", root)
    os.chroot(root)
    os.chdir(start["folder"])
    os.setgroups([])
    os.setgid(start["group"])
    os.setuid(start["user"])
    os.execvpe(start["command"][0], start["command"], start["environment"])  # noqa: S606


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
