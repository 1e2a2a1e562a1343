"""The worker as a process: its output, how it stops, and errors of users."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from stormfold.local.process import free_port
from stormfold.local.redis import EmbeddedRedis
from stormfold.settings import Settings, variable
from tests.support.servers import environment, until

NOWHERE = {
    "STORMFOLD_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9",
    "STORMFOLD_REDIS_URL": "redis://worker:hunter2@127.0.0.1:10/0",
}


class Process:
    """A worker, and its output so far."""

    def __init__(self, folder: Path, values: dict[str, str], *words: str) -> None:
        self._out, self._err = folder / "out", folder / "err"
        command = [sys.executable, "-c", "from stormfold.cli import main; main()", "worker", *words]
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.popen = subprocess.Popen(
                command, env=os.environ | {"STORMFOLD_HTTP_ADDRESS": "127.0.0.1:0"} | values, stdout=out, stderr=err
            )

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()


@contextmanager
def process(folder: Path, values: dict[str, str], *words: str) -> Iterator[Process]:
    """A worker that is killed at the end."""
    started = Process(folder, values, *words)
    try:
        yield started
    finally:
        started.popen.kill()
        started.popen.wait()


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
async def test_a_worker_starts_and_stops_cleanly_without_servers(tmp_path: Path, sign: signal.Signals) -> None:
    """The exit code is 0, and every line that it prints is a log record."""
    with process(tmp_path, NOWHERE) as worker:
        failed = ('"component failed"', '"cannot read"')
        await until(lambda: all(message in worker.err for message in failed), what="it reports both")
        begin = time.monotonic()
        worker.popen.send_signal(sign)
        await until(lambda: worker.popen.poll() is not None, 10, "it has stopped")
        assert worker.popen.returncode == 0 and time.monotonic() - begin < 10
    lines = [json.loads(line) for line in worker.err.splitlines()]
    assert lines[0]["message"] == "worker started" and lines[-1]["message"] == "worker stopped"
    assert all({"level", "logger", "timestamp", "message"} <= line.keys() for line in lines)
    assert worker.out == "" and "hunter2" not in worker.err


async def test_a_changed_file_and_sighup_reload_the_configuration_of_a_running_worker(tmp_path: Path) -> None:
    """A file that cannot be used is refused: `/readyz` and a metric show it, and the worker runs on."""
    port, file = free_port(), tmp_path / "stormfold.yaml"
    values = NOWHERE | {"STORMFOLD_HTTP_ADDRESS": f"127.0.0.1:{port}"}
    file.write_text("max_storms: 1000")

    def logged(message: str) -> list[dict[str, Any]]:
        lines = map(json.loads, worker.err.splitlines())
        return [line for line in lines if line["message"] == message]

    async def fetch(path: str) -> str:
        async with aiohttp.ClientSession() as client, client.get(f"http://127.0.0.1:{port}{path}") as response:
            return await response.text()

    async def warnings() -> Any:
        return json.loads(await fetch("/readyz"))["warnings"]

    with process(tmp_path, values, "--config", str(file)) as worker:
        await until(lambda: "worker started" in worker.err, what="it has started")
        assert await warnings() == []
        file.write_text("max_storms: 3000")
        await until(lambda: logged("configuration reloaded"), what="the changed file is applied")
        file.write_text("max_storm: 1")
        (warning,) = await until(warnings, what="the bad file is refused")
        assert warning["component"] == "configuration" and f"{file}:1:1: max_storm: unknown key" in warning["problem"]
        assert "stormfold_config_last_reload_successful 0.0" in await fetch("/metrics")
        assert len(logged("configuration refused, the one before applies")) == 1
        file.write_text("max_storms: 3000")
        worker.popen.send_signal(signal.SIGHUP)
        await until(lambda: len(logged("configuration reloaded")) == 2, what="the file is read again")
        assert [line["changed"] for line in logged("configuration reloaded")] == [["max_storms"], []]
        assert await warnings() == []
        assert "stormfold_config_last_reload_successful 1.0" in await fetch("/metrics")
        worker.popen.terminate()
        await until(lambda: worker.popen.poll() is not None, 20, "it has stopped")
        assert worker.popen.returncode == 0


async def test_options_override_the_environment(topics: Settings, tmp_path: Path) -> None:
    values = environment(topics) | {variable("stages"): "intake", variable("sink"): "none"}
    with process(tmp_path, values, "--stages", "emit", "--sink", f"directory:{tmp_path / 'sink'}") as worker:
        await until(lambda: "worker started" in worker.err, what="it has started")
        await until(lambda: (tmp_path / "sink").is_dir(), what="the sink is used")
        assert json.loads(worker.err.splitlines()[0])["stages"] == "emit"


async def test_a_second_signal_exits_immediately(topics: Settings, tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path / "redis")
    server.start()
    address = f"127.0.0.1:{free_port()}"
    values = environment(topics) | {variable("redis_url"): server.url, variable("http_address"): address}
    try:
        with process(tmp_path, values) as worker:
            await until(lambda: "opened a state version" in worker.err, what="it is at work")
            async with aiohttp.ClientSession() as client, client.get(f"http://{address}/events") as viewed:
                await viewed.content.readany()
                os.kill(server.pid, signal.SIGSTOP)
                await asyncio.sleep(1.0)
                worker.popen.send_signal(signal.SIGTERM)
                # It ends the page first. A second signal before it reacts to the first would count as the same.
                await viewed.read()
            assert worker.popen.poll() is None, "there was nothing to wait for"
            worker.popen.send_signal(signal.SIGTERM)
            await until(lambda: worker.popen.poll() is not None, what="it leaves at once")
            # Otherwise it would exit with 0 some seconds later.
            assert worker.popen.returncode == 128 + signal.SIGTERM
    finally:
        os.kill(server.pid, signal.SIGCONT)
        server.kill()


def test_a_worker_changes_neither_standard_output_nor_the_root_logger() -> None:
    code = (
        "import asyncio, logging, sys\n"
        "from stormfold.config import Config; from stormfold.settings import Settings\n"
        "from stormfold.worker import Worker\n"
        "async def main():\n"
        "    before = sys.stdout, sys.stderr, logging.root.handlers[:], logging.root.level\n"
        "    worker = Worker(Settings(), Config())\n"
        "    await worker.start()\n"
        "    assert before == (sys.stdout, sys.stderr, logging.root.handlers[:], logging.root.level)\n"
        "    await worker.stop()\n"
        "import structlog; structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))\n"
        "asyncio.run(main()); print('hello')\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | NOWHERE | {"STORMFOLD_HTTP_ADDRESS": "127.0.0.1:0"},
        capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    assert answer.stdout == "hello\n"


@pytest.mark.parametrize(
    ("values", "words", "code", "message"),
    [
        ({}, ("--stages", "fold,foled"), 2, "STORMFOLD_STAGES: expected some of intake,fold,close,correlate,emit"),
        ({}, ("--sink", "nirvana"), 2, "STORMFOLD_SINK: expected kubernetes, directory:PATH or none"),
        ({}, ("--config", "no-such.yaml"), 2, "no-such.yaml: No such file or directory"),
        ({"STORMFOLD_KAFAK": "x"}, (), 2, "STORMFOLD_KAFAK: unknown environment variable"),
        ({"STORMFOLD_REDIS_URL": "hunter2"}, (), 2, "STORMFOLD_REDIS_URL: expected redis://"),
        ({"STORMFOLD_REDIS_URL": "redis://:1/hunter2@h"}, (), 2, "STORMFOLD_REDIS_URL: expected redis://"),
        (
            {"STORMFOLD_REDIS_URL": "redis://h?hunter2=1"},
            (),
            2,
            "STORMFOLD_REDIS_URL: expected only these options after ?:",
        ),
        ({"STORMFOLD_HTTP_ADDRESS": "192.0.2.1:8080"}, (), 1, "cannot listen on 192.0.2.1:8080"),
    ],
)
def test_errors_of_users_are_two_lines_without_secrets(
    tmp_path: Path, values: dict[str, str], words: tuple[str, ...], code: int, message: str
) -> None:
    """One line states what is wrong, the second what to do."""
    with process(tmp_path, NOWHERE | values, *words) as worker:
        assert worker.popen.wait(20) == code
        printed = [line for line in worker.err.splitlines() if not line.startswith("{")]
        assert message in printed[0] and len(printed) <= 2
        assert "Traceback" not in worker.err and "hunter2" not in worker.err and worker.out == ""


async def test_an_address_in_use_names_the_variable_to_set(tmp_path: Path) -> None:
    values = NOWHERE | {"STORMFOLD_HTTP_ADDRESS": f"127.0.0.1:{free_port()}"}
    (tmp_path / "second").mkdir()
    with process(tmp_path, values) as first:
        await until(lambda: "worker started" in first.err, what="it has started")
        with process(tmp_path / "second", values) as second:
            assert second.popen.wait(20) == 1
            assert f"cannot listen on {values['STORMFOLD_HTTP_ADDRESS']}: " in second.err
            assert "-> set STORMFOLD_HTTP_ADDRESS" in second.err
