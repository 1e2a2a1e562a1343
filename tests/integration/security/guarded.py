"""Helpers for servers with access control: workers that may be refused, and the problems that they report."""

import time
from collections.abc import Sequence
from typing import Any

import aiohttp

from stormfold.settings import Settings
from tests.support.alerts import Sent, alert, record
from tests.support.pipeline import publish
from tests.support.servers import until

PASSWORD = "correct-horse-42"
ALERTS = 300
SECONDS = 60


def changed(settings: Settings, **more: Any) -> Settings:
    """Returns a copy of the settings with changes."""
    return Settings(**{name: getattr(settings, name) for name in settings.model_fields_set} | more)


async def problems(settings: Settings) -> Sequence[str] | None:
    """Returns the problems of the worker's /readyz with their hints; None while it does not answer."""
    async with aiohttp.ClientSession() as session:
        try:
            async with session.get(f"http://{settings.http_address}/readyz") as answer:
                found = (await answer.json())["problems"]
                assert answer.status == (503 if found else 200)
        except aiohttp.ClientError:
            return None
    return [f"{problem['component']}: {problem['problem']}; {problem['hint']}" for problem in found]


async def incident(settings: Settings, number: int) -> None:
    """Publishes the alerts of one past incident with the credentials of the settings."""
    begin = int(time.time() * 1000) - 3_600_000 + number * 600_000
    await publish(settings, [Sent(begin + n * 10, record(alert(pod=f"p{n}")), n % 3) for n in range(ALERTS)])


def assert_one_line(error: Exception) -> None:
    """Asserts that the message is one line without the password."""
    assert str(error) and len(str(error).splitlines()) == 1
    assert PASSWORD not in str(error)


async def wait_until_unready(settings: Settings, reason: str) -> None:
    """Waits until the worker is not ready for this reason alone, reported in one line with its hint."""

    async def reported() -> bool:
        found = await problems(settings) or ()
        return bool(found) and all(reason in one and len(one.splitlines()) == 1 for one in found)

    await until(reported, SECONDS, f"the worker reports {reason!r}")


async def ready(settings: Settings) -> None:
    """Waits until the worker is ready."""

    async def without_problems() -> bool:
        return await problems(settings) == []

    await until(without_problems, SECONDS, "the worker is ready")
