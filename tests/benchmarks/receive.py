"""Measures `stormfold receive`: webhook bodies a second of one process, over connections that are kept open."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import aiohttp

from stormfold.local.process import HOST, free_port, spawn
from stormfold.settings import Settings, variable
from tests.benchmarks.bench import TIMEOUT, Bench
from tests.benchmarks.load import alert
from tests.benchmarks.results import Receive, Taken
from tests.support.servers import environment, until

LOADS = {"webhook of 10 alerts": (10, 20_000), "webhook of 1 alert": (1, 30_000), "webhook of 200 alerts": (200, 2_000)}
"""Name → alerts in a body, and bodies."""
CONNECTIONS = 32
DIFFERENT = 10
"""Different bodies that a connection sends in turns."""


def webhook(alerts: int, first: int) -> bytes:
    """Returns a body as Alertmanager sends it."""
    listed = b",".join(alert(first + number, 0) for number in range(alerts))
    return (
        b'{"version":"4","groupKey":"{}","truncatedAlerts":0,"status":"firing","receiver":"stormfold","groupLabels":{},'
        b'"commonLabels":{},"commonAnnotations":{},"externalURL":"http://alertmanager:9093","alerts":[' + listed + b"]}"
    )


async def measure(bench: Bench) -> Receive:
    """Measures all loads in turns."""
    found: dict[str, list[Taken]] = {name: [] for name in LOADS}
    for turn in range(bench.rounds):
        for name, (alerts, bodies) in LOADS.items():
            bench.progress(f"receive, round {turn + 1}: {name}")
            found[name].append(await _load(bench, alerts, bench.size(bodies, 100)))
    return Receive(bench.run(), found)


async def _load(bench: Bench, alerts: int, bodies: int) -> Taken:
    settings = await bench.pipeline()
    port = free_port()
    process = _start(settings, bench.folder, port)
    try:
        await until(lambda: _ready(port), TIMEOUT, "the receiver is ready")
        share = bodies // CONNECTIONS
        every = [_request(webhook(alerts, number * alerts)) for number in range(CONNECTIONS * DIFFERENT)]
        requests = [every[number::CONNECTIONS] for number in range(CONNECTIONS)]
        answered = [0] * CONNECTIONS

        async def done() -> float:
            return sum(answered)

        # One batch first: connections to Kafka, code that is run for the first time.
        await asyncio.gather(*(_send(port, one, 20, [0], 0) for one in requests))
        senders = [
            asyncio.create_task(_send(port, one, share, answered, number)) for number, one in enumerate(requests)
        ]
        taken = await bench.watched([process.pid], done, share * CONNECTIONS, share * CONNECTIONS)
        await asyncio.gather(*senders)
        return taken
    finally:
        process.terminate()
        process.wait()


def _start(settings: Settings, folder: Path, port: int) -> "subprocess.Popen[bytes]":
    environ = os.environ | environment(settings) | {variable("receive_address"): f"{HOST}:{port}"}
    with (folder / "receive.log").open("ab") as log:
        return spawn([sys.executable, "-m", "stormfold", "receive"], log, Path.cwd(), environ)


async def _ready(port: int) -> bool:
    try:
        async with aiohttp.ClientSession() as session, session.get(f"http://{HOST}:{port}/readyz") as answer:
            return answer.status == 200
    except aiohttp.ClientError:
        return False


def _request(body: bytes) -> bytes:
    head = f"POST /alerts HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return f"{head}User-Agent: Alertmanager/0.35.0\r\n\r\n".encode() + body


async def _send(port: int, requests: Sequence[bytes], times: int, answered: list[int], number: int) -> None:
    """Sends the requests in turns over one connection; a client library would need more time than the receiver."""
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        for turn in range(times):
            writer.write(requests[turn % len(requests)])
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200 "):
                raise RuntimeError(head.decode())
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
            answered[number] += 1
    finally:
        writer.close()
