"""The topics: the settings that each needs and why, checking them, and creating missing topics."""

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    BrokerNotAvailableError,
    NoError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    for_code,
)

from stormfold.errors import ActionRequired
from stormfold.kafka.client import broker_error, metadata
from stormfold.settings import Settings

PARTITIONS = 12
"""Enough for a dozen workers per stage. The number of the keyed topic cannot change after the first alert."""
REPLICAS = 3
"""If there are that many brokers."""
HOUR = 3_600_000
KEYED_RETENTION = 72 * HOUR
"""Longer than the longest outage: only records that are still here can be folded again."""
STORMS_RETENTION = 168 * HOUR
"""How long storms can be listed, audited, and written to a sink that was unavailable."""
INCIDENTS_RETENTION = 2 * STORMS_RETENTION
"""A storm that is read again must find its incident, so that it does not begin another one."""
MAX_RECORD = 1_048_588
"""Kafka's default for the largest record (bytes)."""
DLQ_EXTRA = 64 * 1024
"""Bytes that a dead letter may have more than its record: headers with the reason and the origin."""
FOREVER = str(2**63 - 1)
PROPAGATION_SECONDS = 10.0
"""Longest wait until brokers know a topic that was created."""


class Setting(NamedTuple):
    """One setting of a topic."""

    name: str
    value: str
    """The value in a new topic."""
    reason: str = ""
    """What goes wrong with other values; empty if other values are fine."""
    minimum: int | None = None
    """The smallest sufficient number; None if exactly `value` is needed. In a topic, -1 means no limit."""

    def is_satisfied_by(self, found: str | None) -> bool:
        """Whether the value `found` in a topic is sufficient."""
        if not self.reason:
            return True
        if self.minimum is None or found is None:
            return found == self.value
        return int(found) == -1 or int(found) >= self.minimum


@dataclass(frozen=True)
class Topic:
    """A topic that stormfold needs."""

    name: str
    partitions: int
    """Of a new topic; any number is sufficient."""
    settings: tuple[Setting, ...]
    purpose: str


class TopicState(NamedTuple):
    """A topic as it is in Kafka."""

    partitions: int
    settings: dict[str, str]
    denied: bool = False
    """Whether this user may not read the settings."""


class Finding(NamedTuple):
    """A topic that is missing, or a setting that is wrong, or settings that are not known."""

    topic: str
    state: Literal["missing", "misconfigured", "unknown"]
    message: str
    setting: str = ""
    """The setting that corrects it, as `name=value`; empty for a missing topic."""


def topics(
    settings: Settings, partitions: int = PARTITIONS, *, producer_timestamps: bool = False, max_record: int = MAX_RECORD
) -> tuple[Topic, ...]:
    """The topics under the names of the settings.

    With `producer_timestamps`, `alerts` keeps the timestamps that producers set, of any time, for replays. It deletes
    nothing, because brokers delete records by timestamp. `max_record` is the largest alert record in bytes.
    """
    stamped = Setting(
        "message.timestamp.type", "LogAppendTime", "a backlog with old timestamps would be deleted by retention"
    )
    deleted = Setting("cleanup.policy", "delete", "compaction removes records that have not been read")
    timestamps = [stamped._replace(reason="")]
    if producer_timestamps:
        timestamps = [stamped._replace(value="CreateTime", reason=""), Setting("retention.ms", "-1")]
        timestamps.append(Setting("message.timestamp.after.max.ms", FOREVER))

    def retention(ms: int, reason: str, minimum: int = 24 * HOUR) -> Setting:
        return Setting("retention.ms", str(ms), reason, minimum)

    def max_bytes(size: int, reason: str = "") -> Setting:
        return Setting("max.message.bytes", str(size), reason, size)

    def topic(name: str, partitions: int, purpose: str, *specific: Setting) -> Topic:
        return Topic(name, partitions, (deleted, *specific), purpose)

    dlq = (stamped, retention(STORMS_RETENTION, "dead letters could expire before they are redriven"))
    return (
        topic(settings.alerts_topic, partitions, "what producers publish", max_bytes(max_record), *timestamps),
        topic(
            settings.keyed_topic, partitions, "alerts by fingerprint, stamped with event time", stamped,
            max_bytes(max_record, "an alert would fit in `alerts` but not here"),
            retention(KEYED_RETENTION, "alerts could be gone before they are folded, or folded again"),
        ),
        topic(
            settings.storms_topic, partitions, "closed storms, whole manifests", stamped,
            retention(STORMS_RETENTION, "storms could be gone before they are written"),
        ),
        topic(
            settings.incidents_topic, partitions, "incidents, whole manifests", stamped,
            retention(INCIDENTS_RETENTION, "storms read again would begin incidents again", 48 * HOUR),
        ),
        topic(
            settings.alerts_dlq_topic, 1, "records that are not alerts", *dlq,
            max_bytes(max_record + DLQ_EXTRA, "a dead letter is its record and the reason"),
        ),
        topic(settings.storms_dlq_topic, 1, "storms that the API server rejected", *dlq),
        topic(settings.incidents_dlq_topic, 1, "incidents that the API server rejected", *dlq),
    )  # fmt: skip


async def partition_counts(admin: AIOKafkaAdminClient) -> dict[str, int]:
    """Number of partitions of every topic. Raises aiokafka's errors."""
    # A request for one topic by name could create it, with the wrong settings, if brokers create topics on their own.
    return {
        found["topic"]: len(found["partitions"])
        for found in await admin.describe_topics()
        if for_code(found["error_code"]) is NoError
    }


async def partitions_of(settings: Settings, topic: str) -> range:
    """The partitions of a topic. Raises `ActionRequired` if there is no such topic, `Retry` while no broker answers."""
    response = await metadata(settings, [topic])
    ((code, *_, partitions),) = response.topics
    error = for_code(code)
    if error is UnknownTopicOrPartitionError:
        raise ActionRequired(
            f"topic {topic} does not exist in Kafka at {settings.kafka_bootstrap_servers}",
            "run `stormfold topics --create`",
        )
    if error is not NoError:
        raise broker_error(error(topic), settings)
    return range(len(partitions))


async def describe(admin: AIOKafkaAdminClient, wanted: Iterable[Topic]) -> dict[str, TopicState]:
    """The wanted topics that exist, by name. Raises aiokafka's errors."""
    counts = await partition_counts(admin)
    # Also of topics without a count: a topic that this client must not see is not missing, and raises here.
    responses = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic.name) for topic in wanted])
    present = {}
    for response in responses:
        for code, message, _, name, entries in response.resources:
            error = for_code(code)
            if error is NoError and name in counts:
                present[name] = TopicState(counts[name], {entry[0]: entry[1] for entry in entries})
            elif error is TopicAuthorizationFailedError and name in counts:
                present[name] = TopicState(counts[name], {}, denied=True)
            elif error not in (NoError, UnknownTopicOrPartitionError):
                raise error(f"{name}: {message}")
    return present


def validate(wanted: Iterable[Topic], present: dict[str, TopicState]) -> list[Finding]:
    """Compares topics with what is needed; empty if nothing is wrong."""
    findings = []
    for topic in wanted:
        if topic.name not in present:
            findings.append(Finding(topic.name, "missing", "it does not exist"))
            continue
        if present[topic.name].denied:
            message = "its settings are not known: this user needs the permission DescribeConfigs on it"
            findings.append(Finding(topic.name, "unknown", message))
            continue
        for setting in topic.settings:
            found = present[topic.name].settings.get(setting.name)
            if not setting.is_satisfied_by(found):
                need = setting.value if setting.minimum is None else f"at least {setting.minimum}"
                message = f"{setting.name} is {found}, needs {need}: {setting.reason}"
                findings.append(Finding(topic.name, "misconfigured", message, f"{setting.name}={setting.value}"))
    return findings


async def _registered_brokers(admin: AIOKafkaAdminClient) -> int:
    """The number of brokers. One that started or was resumed just now answers before it is registered."""
    deadline = time.monotonic() + PROPAGATION_SECONDS
    while time.monotonic() < deadline:
        if found := (await admin.describe_cluster())["brokers"]:
            return len(found)
        await asyncio.sleep(0.1)
    raise BrokerNotAvailableError("no broker is registered")


async def create(admin: AIOKafkaAdminClient, wanted: Sequence[Topic]) -> list[str]:
    """Creates missing topics and leaves the others as they are; returns the names of the new ones.

    Raises aiokafka's errors.
    """
    present = await describe(admin, wanted)
    missing = [topic for topic in wanted if topic.name not in present]
    if not missing:
        return []
    replicas = min(REPLICAS, await _registered_brokers(admin))
    # With acks=all, an acknowledged record survives the loss of a broker.
    durable = {"min.insync.replicas": str(replicas - 1)} if replicas >= REPLICAS else {}
    new = []
    for topic in missing:
        configs = {setting.name: setting.value for setting in topic.settings} | durable
        new.append(NewTopic(topic.name, topic.partitions, replicas, topic_configs=configs))
    response = await admin.create_topics(new)
    created = []
    for name, code, message in response.topic_errors:
        error = for_code(code)
        if error is NoError:
            created.append(name)
        elif error is not TopicAlreadyExistsError:
            raise error(f"{name}: {message}")
    # The controller has created them; other brokers know it a little later.
    deadline = time.monotonic() + PROPAGATION_SECONDS
    while created and time.monotonic() < deadline:
        if set(created) <= (await describe(admin, wanted)).keys():
            break
        await asyncio.sleep(0.1)
    return created
