"""`stormfold up` before it starts servers, and the variables that it prints for another terminal."""

import socket
from pathlib import Path

import pytest
from click.testing import CliRunner

from stormfold import cli
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
