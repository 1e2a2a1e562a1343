"""One publication of a file: what is delivered, what to report while Kafka does not acknowledge, and how to resume."""

import asyncio
import hashlib
import time
from collections.abc import Coroutine, Iterable, Iterator
from itertools import islice
from typing import Any, BinaryIO, NamedTuple, Self, TypeVar

import click
from aiokafka.errors import MessageSizeTooLargeError

from stormfold.errors import ActionRequired, Retry, StormfoldError
from stormfold.kafka.client import check_brokers
from stormfold.kafka.producer import Producer, ProducerRecord
from stormfold.kafka.reader import open_reader
from stormfold.kafka.topics import partitions_of
from stormfold.settings import Settings
from stormfold.text import pluralize

T = TypeVar("T")

BATCH_SIZE = 1_000
"""Records that are sent together."""
STALL_SECONDS = 5.0
"""Time without an acknowledgement after which a line reports it."""
TIMEOUT_SECONDS = 60.0
"""Time without an acknowledgement after which the publication fails: a broker that restarts is back before."""
CLOCK_DIFFERENCE_MS = 600_000
"""Largest difference of the clocks of this machine and the brokers when delivered records are looked for."""


class Run(NamedTuple):
    """Identifies a publication, which `--resume` can complete. The keys of its records begin with it."""

    began: int
    """Unix time (ms)."""
    digest: str
    """First digits of the SHA-256 of the file."""

    @classmethod
    def begin(cls, file: BinaryIO) -> Self:
        """A new run of this file, which begins now."""
        file.seek(0)
        digest = hashlib.sha256()
        while chunk := file.read(1024 * 1024):
            digest.update(chunk)
        return cls(time.time_ns() // 1_000_000, digest.hexdigest()[:12])

    @classmethod
    def parse(cls, text: str) -> Self:
        """The run that `str` wrote. Raises `ActionRequired` for another text."""
        began, _, digest = text.partition("-")
        if not (began.isdecimal() and digest):
            raise ActionRequired(
                f"--resume {text}: not a publication", "copy it from the message of the one that failed"
            )
        return cls(int(began), digest)

    def __str__(self) -> str:
        return f"{self.began}-{self.digest}"


class Publication:
    """Sends records to all partitions of `alerts` in turn."""

    def __init__(self, settings: Settings, run: Run) -> None:
        self._settings = settings
        self._topic = settings.alerts_topic
        self._run = run
        self._producer = Producer(settings, "publish")
        self.delivered = 0
        """Records that Kafka has acknowledged."""
        self._sending = 0
        """Records in the batch that is not acknowledged yet."""

    async def send(self, records: Iterable[bytes], delivered_before: frozenset[int] = frozenset()) -> int:
        """Sends the records, without those whose numbers were delivered before; returns how many it sent.

        Raises `ActionRequired` or `Retry`; then the message has what was delivered.
        """
        try:
            partitions = len(await self._acknowledged(partitions_of(self._settings, self._topic)))
            left = self._records(records, delivered_before)
            while batch := list(islice(left, BATCH_SIZE)):
                self._sending = len(batch)
                by_partition = {p: batch[p::partitions] for p in range(min(partitions, len(batch)))}
                await self._acknowledged(self._producer.send(self._topic, by_partition))
                self.delivered, self._sending = self.delivered + len(batch), 0
        except asyncio.CancelledError:
            click.echo(f"interrupted: {self._progress()}\n  -> {self._hint()}", err=True)
            raise
        except StormfoldError as error:
            if not self._sending:
                raise
            reason, hint = str(error), error.hint
            if isinstance(error.__cause__, MessageSizeTooLargeError):
                reason = f"a record is larger than {self._topic} allows"
                hint = f"raise max.message.bytes of {self._topic}"
            hints = filter(None, (hint, self._hint()))
            raise ActionRequired(f"{reason}; {self._progress()}", "; then ".join(hints)) from error
        finally:
            await self._producer.abort()
        return self.delivered

    def _records(self, records: Iterable[bytes], delivered_before: frozenset[int]) -> Iterator[ProducerRecord]:
        for number, value in enumerate(records):
            if number not in delivered_before:
                yield ProducerRecord(f"{self._run}-{number}".encode(), value)

    async def _acknowledged(self, work: Coroutine[Any, Any, T]) -> T:
        """Waits for an answer of Kafka; reports after `STALL_SECONDS` that it waits.

        Raises `Retry` after `TIMEOUT_SECONDS`.
        """
        task = asyncio.ensure_future(work)
        try:
            if not (await asyncio.wait({task}, timeout=STALL_SECONDS))[0]:
                where = f"Kafka at {self._settings.kafka_bootstrap_servers}"
                click.echo(
                    f"{where} has acknowledged nothing for {STALL_SECONDS:g} s; {self._progress()}. Still trying, for"
                    f" {TIMEOUT_SECONDS:g} s",
                    err=True,
                )
                await asyncio.wait({task}, timeout=TIMEOUT_SECONDS - STALL_SECONDS)
            if task.done():
                return await task
        finally:
            task.cancel()
        raise Retry(f"no acknowledgement for {TIMEOUT_SECONDS:g} s: {await self._stall_reason()}")

    async def _stall_reason(self) -> str:
        try:
            await check_brokers(self._settings)
        except StormfoldError as error:
            return str(error)
        return f"the brokers answer, but {self._topic} takes no records; are enough replicas in sync?"

    def _progress(self) -> str:
        maybe = f", and perhaps some of the next {self._sending:,}" if self._sending else ""
        return f"{pluralize(self.delivered, 'record')} delivered{maybe}"

    def _hint(self) -> str:
        return f"add `--resume {self._run}` to the same command: it publishes only what is missing"


async def delivered_records(settings: Settings, run: Run, file: BinaryIO, name: str) -> frozenset[int]:
    """Numbers of the records of a run that are in `alerts`. Raises `ActionRequired` for a file of another run."""
    if Run.begin(file).digest != run.digest:
        raise ActionRequired(
            f"{name} is not the file that {run} published", "without --resume it is published as a whole"
        )
    topic, prefix = settings.alerts_topic, f"{run}-".encode()
    found = set()
    async with open_reader(settings) as reader:
        ends = await reader.end_offsets(topic)
        starts = await reader.offsets_for_time(topic, run.began - CLOCK_DIFFERENCE_MS)
        async for records in reader.read_batches(topic, starts, ends):
            found |= {int(r.key.removeprefix(prefix)) for r in records if (r.key or b"").startswith(prefix)}
    return frozenset(found)
