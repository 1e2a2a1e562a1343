"""Small things around the servers that a test run owns."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import SecretStr

from stormfold.settings import Settings, variable


def environment(settings: Settings) -> dict[str, str]:
    """The variables that make a command use these settings, passwords in the clear."""
    found = {name: getattr(settings, name) for name in settings.model_fields_set}
    return {
        variable(name): value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        for name, value in found.items()
        if value is not None
    }


async def until(condition: Callable[[], Any], seconds: float = 30.0, what: str = "") -> Any:
    """Waits until the condition holds and returns its value; fails the test if it doesn't in time.

    `condition` is called again and again; a coroutine it returns is awaited.
    """
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if isinstance(value, Awaitable):
            value = await value
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:.0f} s: {what or condition}")
        await asyncio.sleep(0.05)
