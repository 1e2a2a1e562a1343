"""Applies to every test: a clean environment, ports that no other process of the run chooses for its servers, and
skipped tests fail in CI. Servers: tests/integration/conftest.py."""

import os
import signal
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import settings

from stormfold.local import process
from stormfold.settings import PREFIX

# How long an example takes depends on the load of the machine.
settings.register_profile("without-deadline", deadline=None)
settings.load_profile("without-deadline")


def pytest_configure() -> None:
    """Removes settings from the environment, chooses ports, and lets Ctrl-C reach the processes that tests start."""
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        del os.environ[name]
    # Servers of the tests are on this machine; downloads may need a proxy.
    for name in ("no_proxy", "NO_PROXY"):
        os.environ[name] = ",".join(filter(None, (os.environ.get(name), process.HOST, "localhost")))
    # Two processes could find the same port free before a server of either listens on it.
    number, count = (os.environ.get(f"PYTEST_XDIST_{name}", "") for name in ("WORKER", "WORKER_COUNT"))
    if number:
        process.PORTS = process.PORTS[int(number.removeprefix("gw")) % int(count) :: int(count)]
    # Processes that a shell starts in the background ignore SIGINT, and so would all their children.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _refuse_skip(report: Any) -> Any:
    if os.environ.get("CI") and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI does not accept: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, Any, Any]:
    """In CI a skipped test fails, because it has not been run."""
    return _refuse_skip((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, Any, Any]:
    """The same for whole modules."""
    return _refuse_skip((yield))
