"""`stormfold up` before it starts servers, and the variables that it prints for another terminal."""

import socket
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from stormfold import cli
from stormfold.cli.up import shell_lines
from stormfold.local.process import HOST


@pytest.mark.parametrize("option", ["--http-port", "--receive-port"])
def test_a_port_in_use_is_reported_before_any_server_starts(tmp_path: Path, option: str) -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = CliRunner().invoke(cli.command, ["up", "--data", str(tmp_path / "data"), option, str(port)])
    assert result.exit_code == 1 and result.stdout == ""
    problem, hint = result.stderr.splitlines()
    assert f"port {port} is in use" in problem and option in hint
    assert not (tmp_path / "data").exists()


KAFKA, REDIS = "127.0.0.1:9092", "redis://127.0.0.1:6379/0"


@pytest.mark.parametrize(
    ("kafka", "environment", "lines"),
    [
        (KAFKA, {}, []),
        ("127.0.0.1:20123", {}, ["export STORMFOLD_KAFKA_BOOTSTRAP_SERVERS=127.0.0.1:20123"]),
        (
            "127.0.0.1:20123",
            {"STORMFOLD_KAFKA_BOOTSTRAP_SERVERS": "kafka.prod:9092"},
            ["export STORMFOLD_KAFKA_BOOTSTRAP_SERVERS=127.0.0.1:20123"],
        ),
        (
            KAFKA,
            {"STORMFOLD_KAFKA_BOOTSTRAP_SERVERS": "kafka.prod:9092", "STORMFOLD_REDIS_URL": "redis://prod"},
            ["unset STORMFOLD_KAFKA_BOOTSTRAP_SERVERS STORMFOLD_REDIS_URL"],
        ),
        (
            "127.0.0.1:20123",
            {
                "STORMFOLD_ALERTS_TOPIC": "prod-alerts",
                "STORMFOLD_GROUP_PREFIX": "prod",
                "STORMFOLD_KAFKA_SASL_PASSWORD": "hunter2",
                "STORMFOLD_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
                "stormfold_redis_prefix": "prod",
            },
            [
                "unset STORMFOLD_ALERTS_TOPIC STORMFOLD_GROUP_PREFIX STORMFOLD_KAFKA_SASL_PASSWORD"
                " STORMFOLD_KAFKA_SECURITY_PROTOCOL stormfold_redis_prefix",
                "export STORMFOLD_KAFKA_BOOTSTRAP_SERVERS=127.0.0.1:20123",
            ],
        ),
        (
            KAFKA,
            {"STORMFOLD_KAFKA_BOOTSTRAP_SERVERS": KAFKA, "STORMFOLD_ALERTS_TOPIC": "", "STORMFOLD_CONFIG": "a.yaml"},
            [],
        ),
    ],
)
def test_commands_in_another_terminal_never_use_other_servers(
    kafka: str, environment: dict[str, str], lines: Sequence[str]
) -> None:
    """The environment may describe production: `publish` must write test alerts to the Kafka of `up` only."""
    values = {"kafka_bootstrap_servers": kafka, "redis_url": REDIS, "http_address": "127.0.0.1:8080"}
    assert shell_lines(values, environment | {"PATH": "/bin"}) == lines
