"""What tests of guarded servers share: a worker that may be kept out, and what it says of that."""

import time
from collections.abc import Sequence

import aiohttp

from app.settings import Settings
from tests.support.pipeline import Sent, alert, publish, record

PASSWORD = "correct-horse-42"
ALERTS = 300
SECONDS = 60


async def troubles(settings: Settings) -> Sequence[str]:
    """What the worker says that keeps it from its work, with the advice; nothing while it does not answer."""
    async with aiohttp.ClientSession() as session:
        try:
            async with session.get(f"http://{settings.http}/readyz") as answer:
                found = (await answer.json())["troubles"]
        except aiohttp.ClientError:
            return []
    return [f"{trouble['part']}: {trouble['trouble']}; {trouble['advice']}" for trouble in found]


async def incident(settings: Settings, number: int) -> None:
    """Publishes the alerts of one incident in the past, as whoever the settings are."""
    begin = int(time.time() * 1000) - 3_600_000 + number * 600_000
    await publish(settings, [Sent(begin + n * 10, record(alert(pod=f"p{n}")), n % 3) for n in range(ALERTS)])


def assert_one_line(error: Exception) -> None:
    """The text can be shown as it is."""
    assert str(error) and len(str(error).splitlines()) == 1
    assert PASSWORD not in str(error)
