"""An alert as it came, what its labels and annotations are, and the Kubernetes resource it is about.

`formats` checks a record's structure and hands labels and annotations on as raw JSON; `decode_labels` and
`decode_annotations` check their contents. Alerts repeat, so the second part is worth remembering by the raw bytes.
"""

from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, Self, TypeVar

import msgspec

from stormfold.errors import DeadLetter
from stormfold.text import escape_unprintable

S = TypeVar("S")
T = TypeVar("T")

MAX_LABELS_BYTES = 64 * 1024
"""Largest labels object, as JSON. Labels are held in memory and sent on with every alert."""
MAX_LABELS = 256
"""Most labels of one alert: several times what the busiest real ones carry."""
MAX_ANNOTATIONS_BYTES = 256 * 1024
"""Largest annotations object, as JSON: Kubernetes' own bound for annotations."""
_SHOWN = 64
"""Characters of a label name that a reason repeats."""
_LONGEST = 160
"""Characters of a reason, and of its place: what is quoted grows where it is made printable."""

RESOURCE_LABELS: tuple[tuple[str, str], ...] = (
    ("pod", "Pod"),
    ("deployment", "Deployment"),
    ("statefulset", "StatefulSet"),
    ("daemonset", "DaemonSet"),
    ("replicaset", "ReplicaSet"),
    # Not `job`: in Prometheus that is the scrape job, which nearly every alert has, so nearly every alert would be
    # about a "Job" named after its exporter. kube-state-metrics says `job_name` for the same reason.
    ("job_name", "Job"),
    ("cronjob", "CronJob"),
    ("horizontalpodautoscaler", "HorizontalPodAutoscaler"),
    ("poddisruptionbudget", "PodDisruptionBudget"),
    ("persistentvolumeclaim", "PersistentVolumeClaim"),
    ("persistentvolume", "PersistentVolume"),
    ("ingress", "Ingress"),
    ("node", "Node"),
    # The next two are often put there by scraping and name what measured, so everything above goes first; the
    # namespace is where an alert is, and what it is about only if nothing else is said.
    ("service", "Service"),
    ("instance", "Instance"),
    ("namespace", "Namespace"),
)
"""Labels that name a resource, and its kind; the first one present counts, so the narrower stands before the wider:
a pod before its workload, both before the node they run on. Names as in kube-state-metrics."""

CLUSTER_SCOPED = frozenset(
    {
        "APIService",
        "CertificateSigningRequest",
        "ClusterRole",
        "ClusterRoleBinding",
        "CustomResourceDefinition",
        "Instance",
        "Namespace",
        "Node",
        "PersistentVolume",
        "StorageClass",
        "VolumeAttachment",
    }
)
"""Kinds that live in no namespace. `Instance` is no Kubernetes kind, but a scrape target: a host and port."""


class Poison(DeadLetter):
    """This record is not understood."""

    def __init__(self, reason: str, place: str = "") -> None:
        # Both may quote the record.
        self.reason = escape_unprintable(reason)[:_LONGEST]
        self.place = escape_unprintable(place)[:_LONGEST]
        """Where in the record, like `alerts[3].labels.pod`; empty: the record as a whole."""
        super().__init__(f"{self.place}: {self.reason}" if place else self.reason)

    def inside(self, place: str) -> Self:
        """The same, seen from around `place`."""
        dot = "." if self.place and not self.place.startswith("[") else ""
        return type(self)(self.reason, place + dot + self.place)


class Incoming(msgspec.Struct, frozen=True, gc=False):
    """An alert as it came: well-formed JSON of the right structure; labels and annotations not looked into."""

    labels: bytes
    """A JSON object, for `decode_labels`."""
    annotations: bytes = b"{}"
    """A JSON object, for `decode_annotations`."""
    resolved: bool = False
    fingerprint: str | None = None
    """The one that came with the alert, if it is 16 lower-case hex digits."""


class Resource(NamedTuple):
    """What an alert is about."""

    kind: str
    namespace: str
    """Empty for cluster-scoped kinds, and where the alert does not say."""
    name: str

    def __str__(self) -> str:
        """`Kind/namespace/name`, or `Kind/name`."""
        return "/".join(part for part in self if part)


DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What a decoder raises for what it does not take."""

_strings = msgspec.json.Decoder(dict[str, str])
_values = msgspec.json.Decoder(dict[str, msgspec.Raw])
_string = msgspec.json.Decoder(str)


def decode_labels(raw: bytes) -> dict[str, str]:
    """The labels of `Incoming.labels`. An empty value means that the label is absent, as in Prometheus.

    Raises `Poison` if there are none, too many or too large ones, an empty name, or anything but strings.
    """
    labels = _decode_strings(raw, "labels", MAX_LABELS_BYTES)
    if len(labels) > MAX_LABELS:
        raise Poison(f"{len(labels)} labels, at most {MAX_LABELS}", "labels")
    if "" in labels:
        raise Poison("a label without a name", "labels")
    if "" in labels.values():
        labels = {name: value for name, value in labels.items() if value}
    if not labels:
        raise Poison("no labels")
    return labels


def decode_annotations(raw: bytes) -> dict[str, str]:
    """The annotations of `Incoming.annotations`; raises `Poison` if they are too large or anything but strings."""
    return _decode_strings(raw, "annotations", MAX_ANNOTATIONS_BYTES)


def resource_of(labels: Mapping[str, str], resource_labels: Iterable[tuple[str, str]]) -> Resource | None:
    """The resource named by the first of `resource_labels` (label, kind) that the alert has."""
    for label, kind in resource_labels:
        if name := labels.get(label):
            return Resource(kind, "" if kind in CLUSTER_SCOPED else labels.get("namespace", ""), name)
    return None


def decode(decoder: msgspec.json.Decoder[T], raw: bytes | msgspec.Raw) -> T:
    """`decoder.decode(raw)`, with whatever it objects to as `Poison`."""
    try:
        return decoder.decode(raw)
    except DECODE_ERRORS as error:
        raise objection(error, raw) from error


def objection(error: Exception, raw: bytes | msgspec.Raw) -> Poison:
    """What one of `DECODE_ERRORS` says of `raw`."""
    if isinstance(error, msgspec.ValidationError):
        said, _, place = str(error).replace("`", "").partition(" - at $")
        return Poison(said[:1].lower() + said[1:], place.removeprefix("."))
    if isinstance(error, msgspec.DecodeError):
        if bytes(memoryview(raw)[:3]) == BOM_UTF8:
            return Poison("not JSON: begins with a byte order mark")
        # msgspec says "truncated" for "\ud800" too.
        said = str(error).replace("Input data was truncated", "truncated, or half of a surrogate pair")
        return Poison(f"not JSON: {said.removeprefix('JSON is malformed: ')}")
    if isinstance(error, UnicodeDecodeError):
        return Poison(f"not UTF-8: {error.reason}")
    return Poison("nested too deeply")


def read_each(read: Callable[[S], T], items: Iterable[S]) -> list[T]:
    """`read` of all items; raises the first one's `Poison` as of `[index]`, and one if there are no items."""
    found: list[T] = []
    for index, item in enumerate(items):
        try:
            found.append(read(item))
        except Poison as error:
            raise error.inside(f"[{index}]") from error
    if not found:
        raise Poison("no alerts")
    return found


def _decode_strings(raw: bytes, place: str, limit: int) -> dict[str, str]:
    if len(raw) > limit:
        raise Poison(f"{len(raw)} bytes, at most {limit}", place)
    try:
        return decode(_strings, raw)
    except Poison as error:
        raise (_wrong_value(raw) or error).inside(place) from error


def _wrong_value(raw: bytes) -> Poison | None:
    """What is wrong with the first value that is no string: msgspec does not say which one it is."""
    try:
        values = decode(_values, raw)
    except Poison:
        return None
    for name, value in values.items():
        try:
            decode(_string, value)
        except Poison as error:
            return error.inside(name if name.isidentifier() and len(name) <= _SHOWN else f"[{name[:_SHOWN]!r}]")
    return None
