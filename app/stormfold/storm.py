"""A storm: its identity, its compact metadata, and the resource that says it, with conversions both ways."""

import hashlib
import re
from base64 import urlsafe_b64encode
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from stormfold.alert import Resource
from stormfold.decoding import Malformed, read
from stormfold.keyed_record import GroupMeta, Time
from stormfold.window import Segment

API_VERSION = "stormfold.dev/v1alpha1"
KIND = "AlertStorm"
DOMAIN = "stormfold.dev"

StormClass = Literal["Storm", "Isolated", "Silenced"]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]

MAX_LIST_BYTES = 100_000
"""Bound of `affectedResources` as JSON: with everything else a resource stays far below etcd's 1.5 MiB."""
MAX_VALUE_BYTES = 1024
"""Longest label name, label value or resource name that a resource shows; longer ones are cut (identity is by hash)."""
MAX_GROUP_LABELS = 64
"""Most group labels that a resource shows."""
MAX_PATTERN_BYTES = 2048
"""Longest pattern that a resource shows."""
EXAMPLE_BYTES = 1024
"""Bound of the example alert as JSON: it is kept in Redis once per open bucket."""
OVERFLOW_LABEL = "stormfold_overflow"
"""Group label of the one group per route that takes what comes while too many groups are open."""

_json = msgspec.json.Decoder()
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SLUG = re.compile(r"[^a-z0-9]+")
_LABEL_VALUE = re.compile(r"[^A-Za-z0-9._-]+")


class Example(msgspec.Struct, frozen=True, omit_defaults=True):
    """One alert, cut to `EXAMPLE_BYTES`."""

    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class Affected(msgspec.Struct, frozen=True):
    """A resource that alerts of the storm were about, and how many."""

    resource: Resource
    alerts: Count


class Member(NamedTuple):
    """One fingerprint in one bucket."""

    alerts: int
    last: int
    """Event time of its newest alert."""
    resolved: bool
    """Status of its newest alert."""
    fired: bool
    """Whether any of its alerts was firing."""
    resource: Resource | None


class Detail(NamedTuple):
    """What a bucket holds beyond its times and count."""

    meta: bytes
    """`GroupMeta` in msgpack: of several, as where the configuration was changed meanwhile, the lowest."""
    rank: int
    """Place of the highest severity in the configured order, 0 the highest."""
    severity: str
    late: int
    truncated: bool
    example: bytes
    members: Mapping[bytes, Member]
    """By fingerprint."""


class StormMetadata(msgspec.Struct, frozen=True, kw_only=True):
    """The compact form of a storm: all that its resource says, without the resource's words.

    `to_metadata` and `from_metadata` convert both ways without loss. Times are milliseconds since the epoch.
    """

    name: str
    namespace: str
    storm_class: StormClass
    route: str
    group_labels: dict[str, str]
    pattern: str
    severity: str
    alert_count: Count
    distinct: Count
    resolved: Count
    resource_count: Count
    resources: tuple[Affected, ...]
    example: Example
    first_seen: Time
    last_seen: Time
    close_reason: str
    late: Count
    truncated: bool

    @property
    def affected(self) -> tuple[str, ...]:
        """The affected resources as `Kind/Name` (with the namespace between, if there is one)."""
        return tuple(str(entry.resource) for entry in self.resources)


def group_id(route: str, labels: Mapping[str, str], silenced: bool) -> str:
    """Identity of a group, 20 characters (120 bits). Alerts of one group, and no others, can meet in a storm."""
    return urlsafe_b64encode(hashlib.blake2b(_identity(route, labels, silenced), digest_size=15).digest()).decode()


def overflow_meta(meta: GroupMeta) -> GroupMeta:
    """The group of the same route and class that takes new groups' alerts while too many are open."""
    return msgspec.structs.replace(meta, labels={OVERFLOW_LABEL: "true"})


def storm_name(meta: GroupMeta, start: int, gap: int) -> str:
    """Deterministic resource name of the storm of a group whose first bucket is `gap` long from `start` on (ms).

    A DNS label of at most 57 characters. With the bucket's length, for under other windows another storm's bucket may
    begin at the same time.
    """
    bucket = start.to_bytes(8, "big", signed=True) + gap.to_bytes(8, "big")
    digest = hashlib.blake2b(_identity(meta.route, meta.labels, meta.silenced) + bucket, digest_size=8).hexdigest()
    text = meta.labels.get("alertname") or "-".join(f"{k}-{v}" for k, v in sorted(meta.labels.items()))
    slug = _SLUG.sub("-", text[:200].lower()).strip("-")[:40].strip("-") or "storm"
    return f"{slug}-{digest}"


def _identity(route: str, labels: Mapping[str, str], silenced: bool) -> bytes:
    return msgspec.msgpack.encode([route, sorted(labels.items()), silenced])


def pattern(labels: Mapping[str, str]) -> str:
    """Group labels as people write them: `KubePodCrashLooping{cluster="prod"}`."""
    name = labels.get("alertname", "")
    rest = ",".join(f"{key}={_quoted(value)}" for key, value in sorted(labels.items()) if key != "alertname")
    return f"{name}{{{rest}}}" if rest or not name else name


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def classify(meta: GroupMeta, firing: int, firing_resources: int) -> StormClass:
    """Class of a storm with that many distinct firing fingerprints and distinct resources of firing alerts."""
    if meta.silenced:
        return "Silenced"
    if firing >= meta.storm_alerts or firing_resources >= meta.storm_resources:
        return "Storm"
    return "Isolated"


def cut_example(labels: Mapping[str, str], annotations: Mapping[str, str]) -> bytes:
    """The example alert as JSON of at most `EXAMPLE_BYTES`: summary and runbook_url first, then what still fits."""
    whole = msgspec.json.encode({"labels": labels, "annotations": annotations})
    if len(whole) <= EXAMPLE_BYTES:
        return whole
    kept: dict[str, dict[str, str]] = {"labels": {}, "annotations": {}}
    left = EXAMPLE_BYTES - len(b'{"labels":{},"annotations":{}}')
    first = [("annotations", key) for key in ("summary", "runbook_url") if key in annotations]
    rest = [("labels", key) for key in labels] + [("annotations", key) for key in annotations]
    for part, key in dict.fromkeys(first + rest):
        value = (labels if part == "labels" else annotations)[key]
        room = EXAMPLE_BYTES // 2 - 64 if (part, key) in first else left
        for text in (value, *(cut(value, most) for most in (384, 256, 64))):
            size = len(msgspec.json.encode({key: text})) - 1
            if size <= min(room, left):
                kept[part][key] = text
                left -= size
                break
    return msgspec.json.encode(kept)


def cut(text: str, size: int) -> str:
    """`text` within `size` bytes of UTF-8, with an ellipsis where it was cut."""
    if len(text) * 4 <= size or len(raw := text.encode()) <= size:
        return text
    return raw[: size - 3].decode(errors="ignore") + "…"


def fold_storm(segment: Segment, details: Iterable[Detail], gap: int, max_resources: int) -> StormMetadata:
    """Folds a final segment, with a detail per bucket in order of time, into the storm."""
    ordered = list(details)
    meta = msgspec.msgpack.decode(min(detail.meta for detail in ordered), type=GroupMeta)
    members: dict[bytes, Member] = {}
    for detail in ordered:
        for fingerprint, member in detail.members.items():
            before = members.get(fingerprint)
            if before is not None:
                member = member._replace(alerts=before.alerts + member.alerts, fired=before.fired or member.fired)
            members[fingerprint] = member
    affected: Counter[Resource] = Counter()
    for member in members.values():
        if member.resource is not None:
            affected[member.resource] += member.alerts
    firing = [member for member in members.values() if member.fired]
    firing_resources = {member.resource for member in firing if member.resource is not None}
    # Of alerts that are counted without being listed nothing else is known: each may be another one, firing, and about
    # another resource. To tell of a storm that may be none is better than to keep one to oneself.
    unlisted = sum(bucket.alerts for bucket in segment.buckets) - sum(member.alerts for member in members.values())
    resources = bounded((Affected(resource, alerts) for resource, alerts in affected.items()), max_resources)
    worst = min(ordered, key=lambda detail: (detail.rank, detail.severity))
    return StormMetadata(
        name=storm_name(meta, segment.start, gap),
        namespace=meta.namespace,
        storm_class=classify(meta, len(firing) + unlisted, len(firing_resources) + unlisted),
        route=meta.route,
        group_labels=_shown(meta.labels),
        pattern=cut(pattern(meta.labels), MAX_PATTERN_BYTES),
        severity=worst.severity,
        alert_count=sum(bucket.alerts for bucket in segment.buckets),
        distinct=len(members),
        resolved=sum(member.resolved for member in members.values()),
        resource_count=len(affected),
        resources=resources,
        example=msgspec.json.decode(ordered[0].example, type=Example),
        first_seen=segment.buckets[0].first,
        last_seen=segment.buckets[-1].last,
        close_reason=segment.reason,
        late=sum(detail.late for detail in ordered),
        truncated=len(resources) < len(affected) or any(detail.truncated for detail in ordered),
    )


def _shown(labels: Mapping[str, str]) -> dict[str, str]:
    kept = sorted(labels.items())[:MAX_GROUP_LABELS]
    return {cut(key, MAX_VALUE_BYTES): cut(value, MAX_VALUE_BYTES) for key, value in kept}


def bounded(resources: Iterable[Affected], most: int) -> tuple[Affected, ...]:
    """The most affected resources, at most `most` and `MAX_LIST_BYTES` of them, in a deterministic order."""
    ordered = sorted(resources, key=lambda entry: (-entry.alerts, entry.resource))
    result: list[Affected] = []
    size = 0
    for entry in ordered[:most]:
        kind, namespace, name = entry.resource
        entry = Affected(Resource(kind, cut(namespace, MAX_VALUE_BYTES), cut(name, MAX_VALUE_BYTES)), entry.alerts)
        size += len(msgspec.json.encode(_affected(entry))) + 1
        if size > MAX_LIST_BYTES:
            break
        result.append(entry)
    return tuple(result)


def from_metadata(storm: StormMetadata) -> dict[str, Any]:
    """The manifest of the storm's resource, ready to be applied. Nothing in it depends on the wall clock."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {
            "name": storm.name,
            "namespace": storm.namespace,
            "labels": {
                f"{DOMAIN}/class": storm.storm_class,
                f"{DOMAIN}/route": label_value(storm.route),
                f"{DOMAIN}/severity": label_value(storm.severity),
                f"{DOMAIN}/last-seen": str(storm.last_seen // 1000),
            },
        },
        "spec": {
            "class": storm.storm_class,
            "pattern": storm.pattern,
            "route": storm.route,
            "groupLabels": storm.group_labels,
            "severity": storm.severity,
            "alertCount": storm.alert_count,
            "distinctAlerts": storm.distinct,
            "resolvedAlerts": storm.resolved,
            "resourceCount": storm.resource_count,
            "affectedResources": [_affected(entry) for entry in storm.resources],
            "example": msgspec.to_builtins(storm.example),
            "firstSeen": timestamp(storm.first_seen),
            "lastSeen": timestamp(storm.last_seen),
            "closeReason": storm.close_reason,
            "lateAlerts": storm.late,
            "truncated": storm.truncated,
        },
    }


def encode_manifest(storm: StormMetadata) -> bytes:
    """The manifest as the `storms` topic has it: of the same storm the same bytes."""
    return msgspec.json.encode(from_metadata(storm))


def to_metadata(manifest: Mapping[str, Any]) -> StormMetadata:
    """Reads a manifest back; raises `Malformed` if it isn't one."""
    try:
        return msgspec.convert(_fields(manifest["metadata"], manifest["spec"]), StormMetadata)
    except (LookupError, TypeError, ValueError, AttributeError, msgspec.ValidationError) as error:
        raise Malformed(f"not a storm: {error}") from error


def decode_storm(value: bytes | None) -> StormMetadata:
    """Reads a record of the `storms` topic; raises `Malformed` if it isn't a storm."""
    return to_metadata(read(_json.decode, value or b""))


def _fields(metadata: Mapping[str, Any], spec: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": metadata["name"],
        "namespace": metadata["namespace"],
        "storm_class": spec["class"],
        "route": spec["route"],
        "group_labels": spec["groupLabels"],
        "pattern": spec["pattern"],
        "severity": spec["severity"],
        "alert_count": spec["alertCount"],
        "distinct": spec["distinctAlerts"],
        "resolved": spec["resolvedAlerts"],
        "resource_count": spec["resourceCount"],
        "resources": [
            {"resource": (entry["kind"], entry.get("namespace", ""), entry["name"]), "alerts": entry["alerts"]}
            for entry in spec["affectedResources"]
        ],
        "example": spec["example"],
        "first_seen": _milliseconds(spec["firstSeen"]),
        "last_seen": _milliseconds(spec["lastSeen"]),
        "close_reason": spec["closeReason"],
        "late": spec["lateAlerts"],
        "truncated": spec["truncated"],
    }


def _affected(entry: Affected) -> dict[str, Any]:
    kind, namespace, name = entry.resource
    place = {"kind": kind, "namespace": namespace, "name": name} if namespace else {"kind": kind, "name": name}
    return {**place, "alerts": entry.alerts}


def label_value(text: str) -> str:
    """`text` as a Kubernetes label value: at most 63 of alphanumerics, `-`, `_`, `.`, alphanumeric at both ends."""
    return _LABEL_VALUE.sub("-", text)[:63].strip("-_.")


def timestamp(time: int) -> str:
    """Milliseconds since the epoch as RFC 3339 in UTC."""
    moment = _EPOCH + timedelta(milliseconds=time)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _milliseconds(text: str) -> int:
    return (datetime.fromisoformat(text) - _EPOCH) // timedelta(milliseconds=1)
