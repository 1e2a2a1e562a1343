"""A producer that publishes the planned records at their times."""

import asyncio
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from stormfold.kafka.client import client_options
from stormfold.settings import Settings
from tests.chaos.load import Planned

MAX_WAIT_MS = 500
"""Longest time (ms) that records wait for the broker before the producer pauses the load."""
PAUSE = 0.02
"""Shortest wait (s)."""


class LiveLoad:
    """Publishes each record with its planned time as the timestamp.

    While the broker is unavailable the load pauses, because records that wait for minutes would all be late.
    """

    def __init__(self, settings: Settings, planned: Iterator[Planned], partitions: int, grace: int) -> None:
        self._settings = settings
        self._planned = planned
        self._planned_for = partitions
        self._grace = grace
        self._waiting: deque[tuple[int, asyncio.Future[Any]]] = deque()
        self._given = 0
        self.partitions = partitions
        """Partitions of the topic. Those added after the plan was made receive records too."""
        self.sent = 0
        """Alerts acknowledged so far; a record that cannot be parsed counts as one."""
        self.failed = 0
        """Records whose delivery failed; they may have been written."""
        self.skew: dict[int, int] = {}
        """Partition → error of its producer's clock (ms)."""
        self.tardy: set[tuple[int, int]] = set()
        """(partition, offset) of records acknowledged more than the grace after their timestamp: their event time
        depends on their arrival."""
        self.ahead: set[tuple[int, int]] = set()
        """(partition, offset) of records with a timestamp in the future: they count when they are read, and the records
        behind them may be late until then."""
        self.known: dict[int, int] = {}
        """Added partition → time (ms) from which on it is read: earlier alerts in it may be late."""
        self.stopped = asyncio.Event()

    async def run(self) -> None:
        """Publishes until it is stopped; returns when everything is acknowledged."""
        begin = _now()
        while not self.stopped.is_set():
            async with AIOKafkaProducer(
                **client_options(self._settings) | {"metadata_max_age_ms": 1_000}, acks="all", enable_idempotence=True,
                linger_ms=10, max_batch_size=500_000, max_request_size=5_000_000, compression_type="lz4",
            ) as producer:  # fmt: skip
                begin = await self._run(producer, begin)
                await producer.flush()

    async def _run(self, producer: AIOKafkaProducer, begin: int) -> int:
        """Publishes until it is stopped or a delivery fails: a partition then accepts no later record of this producer.

        Takes and returns the beginning of the load (ms), which each pause moves forward.
        """
        failed = self.failed
        for planned in self._planned:
            early = begin + planned.at - _now()
            if early > 0:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self.stopped.wait(), max(PAUSE, early / 1000))
            if self._waiting and _now() - self._waiting[0][0] > MAX_WAIT_MS:
                await self._acknowledged()
            if self.stopped.is_set() or self.failed > failed:
                break
            begin += max(0, _now() - begin - planned.at - MAX_WAIT_MS)
            try:
                await self._send(producer, planned, begin + planned.at)
            except KafkaError:
                self.failed += 1
        return begin

    async def _send(self, producer: AIOKafkaProducer, planned: Planned, at: int) -> None:
        topic = self._settings.alerts_topic
        partition = planned.partition
        if self.partitions > self._planned_for:
            added = self._given % self.partitions
            known = await producer.partitions_for(topic)
            partition = added if added >= self._planned_for and added in known else partition
        stamp = at + self.skew.get(partition, 0)
        future = await producer.send(
            topic, planned.value, partition=partition, timestamp_ms=stamp, key=b"" if planned.value is None else None
        )
        alerts = max(1, len(planned.alerts))
        self._given += alerts
        self._waiting.append((at, future))
        future.add_done_callback(lambda done: self._done(done, alerts, stamp, ahead=stamp > at))

    def _done(self, future: asyncio.Future[Any], alerts: int, stamp: int, *, ahead: bool) -> None:
        while self._waiting and self._waiting[0][1].done():
            self._waiting.popleft()
        if future.cancelled() or future.exception() is not None:
            self.failed += 1
            return
        self.sent += alerts
        source, age = (future.result().partition, future.result().offset), _now() - stamp
        if ahead or age < 0:
            self.ahead.add(source)
        elif age > self._grace:
            self.tardy.add(source)

    async def _acknowledged(self) -> None:
        for _, future in list(self._waiting):
            with suppress(KafkaError):
                await future


def _now() -> int:
    return time.time_ns() // 1_000_000
