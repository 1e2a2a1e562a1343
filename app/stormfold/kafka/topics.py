"""The five topics: how each has to be set up and why, what is there, and making what is missing."""

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import NoError, TopicAlreadyExistsError, UnknownTopicOrPartitionError, for_code

from stormfold.errors import ActionRequired
from stormfold.kafka.client import broker_error, metadata
from stormfold.settings import Settings

PARTITIONS = 12
"""Enough for a dozen workers a stage; the keyed topic's count is fixed from the first alert on."""
REPLICAS = 3
"""Where there are that many brokers."""
HOUR = 3_600_000
KEYED_RETENTION = 72 * HOUR
"""Longer than the longest outage: what is in here can be folded again, and only that."""
STORMS_RETENTION = 168 * HOUR
"""How long storms can be listed, audited, and written to a sink that was away."""
MAX_RECORD = 1_048_588
"""Kafka's own default for the largest record (bytes)."""
DEAD_EXTRA = 64 * 1024
"""A dead letter is the record plus headers that say why and where from."""
FOREVER = str(2**63 - 1)
KNOWN_SECONDS = 10.0
"""Longest to wait until brokers know of a topic that was created."""


class Setting(NamedTuple):
    """One setting of a topic."""

    name: str
    value: str
    """What a topic is created with."""
    why: str = ""
    """What goes wrong otherwise; empty if only new topics get it."""
    least: int | None = None
    """A number that will do; without one the value itself is needed. -1 in the topic is no limit."""

    def holds(self, found: str | None) -> bool:
        """Whether a topic that is set to `found` will do."""
        if not self.why:
            return True
        if self.least is None or found is None:
            return found == self.value
        return int(found) == -1 or int(found) >= self.least


@dataclass(frozen=True)
class Topic:
    """How a topic has to be."""

    name: str
    partitions: int
    """Of a new one; any number will do."""
    settings: tuple[Setting, ...]
    purpose: str


class Present(NamedTuple):
    """A topic as it is."""

    partitions: int
    settings: dict[str, str]


class Finding(NamedTuple):
    """Something that is not as it has to be."""

    topic: str
    state: Literal["missing", "wrong"]
    message: str
    setting: str = ""
    """For a wrong one, what sets it right: `name=value`."""


def topics(
    settings: Settings, partitions: int = PARTITIONS, *, past: bool = False, max_record: int = MAX_RECORD
) -> tuple[Topic, ...]:
    """The five topics under the names of the settings.

    With `past`, `alerts` keeps the producers' timestamps however old or new they are, and deletes nothing: to tell a
    story of another time. Brokers delete records by timestamp. `max_record` is the largest alert record in bytes.
    """
    stamped = Setting(
        "message.timestamp.type", "LogAppendTime", "a backlog with old timestamps would be deleted by retention"
    )
    deleted = Setting("cleanup.policy", "delete", "compaction removes records that have not been read")
    created = (
        Setting("message.timestamp.type", "CreateTime"),
        Setting("message.timestamp.after.max.ms", FOREVER),
        Setting("retention.ms", "-1"),
    )

    def keep(ms: int, least: int, why: str) -> Setting:
        return Setting("retention.ms", str(ms), why, least)

    def largest(size: int, why: str = "") -> Setting:
        return Setting("max.message.bytes", str(size), why, size)

    dead = largest(max_record + DEAD_EXTRA, "a dead letter is its record and the reason")
    return (
        Topic(
            settings.alerts_topic,
            partitions,
            (deleted, largest(max_record), *(created if past else (Setting(stamped.name, stamped.value),))),
            "what producers publish",
        ),
        Topic(
            settings.keyed_topic,
            partitions,
            (
                deleted, stamped, largest(max_record, "an alert would fit in `alerts` but not here"),
                keep(KEYED_RETENTION, 24 * HOUR, "alerts could be gone before they are folded, or folded again"),
            ),
            "alerts by fingerprint, stamped with event time",
        ),
        Topic(
            settings.storms_topic,
            partitions,
            (deleted, stamped, keep(STORMS_RETENTION, 24 * HOUR, "storms could be gone before they are written")),
            "closed storms, whole manifests",
        ),
        Topic(
            settings.alerts_dlq_topic,
            1,
            (deleted, stamped, dead, keep(STORMS_RETENTION, 24 * HOUR, "nobody could look at them in time")),
            "records that are not alerts",
        ),
        Topic(
            settings.storms_dlq_topic,
            1,
            (deleted, stamped, keep(STORMS_RETENTION, 24 * HOUR, "nobody could look at them in time")),
            "storms that the API server rejected",
        ),
    )  # fmt: skip


async def partition_counts(admin: AIOKafkaAdminClient) -> dict[str, int]:
    """All topics with their number of partitions. Raises aiokafka's errors."""
    # Asking for one by name would create it on a broker that creates topics by itself, and with the wrong settings.
    return {
        found["topic"]: len(found["partitions"])
        for found in await admin.describe_topics()
        if for_code(found["error_code"]) is NoError
    }


async def partitions_of(settings: Settings, topic: str) -> range:
    """The partitions of a topic. Raises `ActionRequired` if there is no such topic, `Retry` while no broker answers."""
    answer = await metadata(settings, [topic])
    ((code, *_, partitions),) = answer.topics
    kind = for_code(code)
    if kind is UnknownTopicOrPartitionError:
        raise ActionRequired(
            f"topic {topic} does not exist in Kafka at {settings.kafka_bootstrap_servers}",
            "run `stormfold topics --create`",
        )
    if kind is not NoError:
        raise broker_error(kind(topic), settings)
    return range(len(partitions))


async def describe(admin: AIOKafkaAdminClient, wanted: Iterable[Topic]) -> dict[str, Present]:
    """Those of the wanted topics that exist, by name. Raises aiokafka's errors."""
    counts = await partition_counts(admin)
    # Also those that are not among them: a topic is not missing where one may only not see it.
    answers = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic.name) for topic in wanted])
    present = {}
    for answer in answers:
        for code, message, _, name, entries in answer.resources:
            kind = for_code(code)
            if kind is NoError and name in counts:
                present[name] = Present(counts[name], {entry[0]: entry[1] for entry in entries})
            elif kind not in (NoError, UnknownTopicOrPartitionError):
                raise kind(f"{name}: {message}")
    return present


def validate(wanted: Iterable[Topic], present: dict[str, Present]) -> list[Finding]:
    """What is missing and what is wrong."""
    findings = []
    for topic in wanted:
        if topic.name not in present:
            findings.append(Finding(topic.name, "missing", "it does not exist"))
            continue
        for setting in topic.settings:
            found = present[topic.name].settings.get(setting.name)
            if not setting.holds(found):
                need = setting.value if setting.least is None else f"at least {setting.least}"
                message = f"{setting.name} is {found}, needs {need}: {setting.why}"
                findings.append(Finding(topic.name, "wrong", message, f"{setting.name}={setting.value}"))
    return findings


async def check(admin: AIOKafkaAdminClient, wanted: Sequence[Topic]) -> list[Finding]:
    """Compares the topics with what is needed; empty if all is well. Raises aiokafka's errors."""
    return validate(wanted, await describe(admin, wanted))


async def create(admin: AIOKafkaAdminClient, wanted: Sequence[Topic]) -> list[str]:
    """Creates those that are missing and leaves the others alone; returns the names of the new ones.

    Raises aiokafka's errors.
    """
    present = await describe(admin, wanted)
    missing = [topic for topic in wanted if topic.name not in present]
    if not missing:
        return []
    brokers = len((await admin.describe_cluster())["brokers"])
    replicas = min(REPLICAS, brokers)
    # With acks=all this makes an acknowledged record survive a broker.
    safe = {"min.insync.replicas": str(replicas - 1)} if replicas >= REPLICAS else {}
    answer = await admin.create_topics(
        [
            NewTopic(
                topic.name, topic.partitions, replicas,
                topic_configs={setting.name: setting.value for setting in topic.settings} | safe,
            )
            for topic in missing
        ]
    )  # fmt: skip
    created = []
    for name, code, message in answer.topic_errors:
        kind = for_code(code)
        if kind is NoError:
            created.append(name)
        elif kind is not TopicAlreadyExistsError:
            raise kind(f"{name}: {message}")
    # The controller has made them; the broker that answers may know a little later.
    until = time.monotonic() + KNOWN_SECONDS
    while created and time.monotonic() < until:
        if set(created) <= (await describe(admin, wanted)).keys():
            break
        await asyncio.sleep(0.1)
    return created
