"""The first program of a container without an engine: prepares its mounts and devices, then becomes the image's user.

It runs by its path in new namespaces for mounts, processes and the network. Arguments: the image's root, and `Start` as
JSON.
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
"""SIOCSIFFLAGS, which Python has no name for."""
UP = 1
"""IFF_UP."""


class Start(TypedDict):
    """The command, its user and its environment."""

    command: list[str]
    environment: dict[str, str]
    folder: str
    user: int
    group: int
    tmp: str
    """The size of /tmp, the only writable folder."""
    started: str
    """The file outside the container that receives this process id."""


def mount(*words: str) -> None:
    """Mounts for this process and its children only."""
    subprocess.run(["mount", *words], check=True)


def main(root: str, start: Start) -> None:
    """Prepares the container and executes its command; does not return."""
    # /proc still belongs to the outer namespace.
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
