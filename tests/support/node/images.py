"""Images without a registry or an engine: a file system of one layer, and its configuration, in an archive."""

import hashlib
import io
import json
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

Configuration = dict[str, Any]
Maker = Callable[[Path], Configuration]
"""Creates a file system in an empty folder; returns the configuration of the image, such as its user."""

PAUSE = r"""
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
static void end(int signal) { (void)signal; exit(0); }
static void reap(int signal) { (void)signal; while (waitpid(-1, NULL, WNOHANG) > 0) {} }
int main(void) {
    signal(SIGINT, end);
    signal(SIGTERM, end);
    signal(SIGCHLD, reap);
    for (;;) pause();
}
"""


def pause(root: Path) -> Configuration:
    """Creates the program that keeps the namespaces of a pod."""
    subprocess.run(["cc", "-static", "-Os", "-x", "c", "-", "-o", root / "pause"], input=PAUSE, text=True, check=True)
    return {"Entrypoint": ["/pause"], "User": "65535:65535"}


def configuration(instructions: Iterable[str]) -> Configuration:
    """Returns the configuration that instructions of a Dockerfile describe."""
    found: Configuration = {"Env": ["PATH=/usr/local/bin:/usr/bin:/bin"]}
    for line in instructions:
        name, value = line.split(" ", 1)
        match name:
            case "ENTRYPOINT":
                found["Entrypoint"] = json.loads(value)
            case "ENV":
                found["Env"].append(value)
            case "USER":
                found["User"] = value
            case "WORKDIR":
                found["WorkingDir"] = value
    return found


def write(archive: Path, name: str, make: Maker, folder: Path) -> None:
    """Writes an image to a file that `docker load` and `ctr images import` read. Its files are made in `folder`."""
    layer = archive.with_suffix(".layer")
    folder.mkdir()
    try:
        made = make(folder)
        with tarfile.open(layer, "w") as files:
            files.add(folder, ".")
        with layer.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        described = {
            "architecture": "amd64",
            "os": "linux",
            "config": made,
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        }
        listed = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
        with tarfile.open(archive, "w") as image:
            image.add(layer, "layer.tar")
            for file, value in (("config.json", described), ("manifest.json", listed)):
                data = json.dumps(value).encode()
                entry = tarfile.TarInfo(file)
                entry.size = len(data)
                image.addfile(entry, io.BytesIO(data))
    finally:
        layer.unlink(missing_ok=True)
        shutil.rmtree(folder)
