"""A group of alerts: its identity, its meta data, the overflow group, and the names of its aggregates."""

import hashlib
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from stormfold.scope import IncidentRules
from stormfold.text import quote, slug

OVERFLOW_LABEL = "stormfold_overflow"
"""Label of the one group per route that takes the alerts of new groups while too many groups are open."""


class GroupMeta(msgspec.Struct, frozen=True, array_like=True):
    """Everything that closing needs to know about a group. Intake decides it, so the log alone decides the result."""

    route: str
    """Name of the route that took the alerts."""
    labels: dict[str, str]
    """Those it is grouped by."""
    namespace: str
    """Namespace of the resources of its aggregates."""
    silenced: bool
    """Silenced alerts are groups of their own."""
    storm_alerts: int
    """Distinct fingerprints of qualifying alerts that make a storm."""
    storm_resources: int
    """Distinct resources of qualifying alerts that make a storm."""
    incident: IncidentRules | None = None
    """How its storms join incidents; None: they do not."""


class Group(NamedTuple):
    """A group, as each of its alerts carries it."""

    id: str
    """`group_id` of it."""
    meta: bytes
    """`GroupMeta` in msgpack."""

    @classmethod
    def of(cls, meta: GroupMeta) -> "Group":
        """The group that the meta data describe."""
        return cls(group_id(meta.route, meta.labels, meta.silenced), msgspec.msgpack.encode(meta))


def group_id(route: str, labels: Mapping[str, str], silenced: bool) -> str:
    """Identity of a group, 20 characters (120 bits). Only alerts of one group can meet in an aggregate."""
    return urlsafe_b64encode(hashlib.blake2b(_identity(route, labels, silenced), digest_size=15).digest()).decode()


def overflow_meta(meta: GroupMeta) -> GroupMeta:
    """The overflow group of the same route and silencing."""
    return msgspec.structs.replace(meta, labels={OVERFLOW_LABEL: "true"}, incident=None)


def aggregate_name(meta: GroupMeta, start: int, gap: int) -> str:
    """Resource name of the aggregate of a group whose first bucket begins at `start` (ms): a slug and 16 hex digits.

    It is a DNS label of at most 57 characters. The bucket's length is part of its hash, because under other windows
    a bucket of another aggregate may begin at the same time.
    """
    bucket = start.to_bytes(8, "big", signed=True) + gap.to_bytes(8, "big")
    digest = hashlib.blake2b(_identity(meta.route, meta.labels, meta.silenced) + bucket, digest_size=8).hexdigest()
    text = meta.labels.get("alertname") or "-".join(f"{k}-{v}" for k, v in sorted(meta.labels.items()))
    return f"{slug(text, 'storm')}-{digest}"


def pattern(labels: Mapping[str, str]) -> str:
    """Group labels in PromQL's notation: `KubePodCrashLooping{cluster="prod"}`."""
    name = labels.get("alertname", "")
    rest = ",".join(f"{key}={quote(value)}" for key, value in sorted(labels.items()) if key != "alertname")
    return f"{name}{{{rest}}}" if rest or not name else name


def _identity(route: str, labels: Mapping[str, str], silenced: bool) -> bytes:
    return msgspec.msgpack.encode([route, sorted(labels.items()), silenced])
