"""Settings for the servers that a test run owns, and waiting for conditions."""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import SecretStr

from stormfold.local.kafka import EmbeddedKafka
from stormfold.local.redis import EmbeddedRedis
from stormfold.settings import Settings, variable

PARTITIONS = 3
"""Partitions of a test's topics: enough for several members of a group and for skew."""
MAX_RECORD = 12_000_000
"""Bytes of the largest record that a test's `alerts` takes."""


def fresh_settings(kafka: EmbeddedKafka, redis: EmbeddedRedis, **more: Any) -> Settings:
    """Returns settings with topics, groups and keys that no other test uses; `more` has further settings."""
    name = f"t{uuid.uuid4().hex[:10]}"
    return Settings(
        kafka_bootstrap_servers=kafka.bootstrap,
        redis_url=redis.url,
        redis_prefix=name,
        group_prefix=name,
        alerts_topic=f"{name}-alerts",
        keyed_topic=f"{name}-keyed",
        storms_topic=f"{name}-storms",
        alerts_dlq_topic=f"{name}-alerts-dlq",
        storms_dlq_topic=f"{name}-storms-dlq",
        incidents_topic=f"{name}-incidents",
        incidents_dlq_topic=f"{name}-incidents-dlq",
        http_address="127.0.0.1:0",
        **more,
    )


def environment(settings: Settings) -> dict[str, str]:
    """Returns the environment variables of these settings, with passwords in plain text."""
    found = {name: getattr(settings, name) for name in settings.model_fields_set}
    return {
        variable(name): value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        for name, value in found.items()
        if value is not None
    }


async def until(condition: Callable[[], Any], seconds: float = 30.0, what: str = "") -> Any:
    """Waits until the condition holds, and returns its value; fails the test after `seconds`, naming `what`.

    `condition` is called every 50 ms; if it returns a coroutine, that is awaited.
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
