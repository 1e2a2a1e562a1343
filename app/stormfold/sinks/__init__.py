"""Where storms are written: one protocol, and the choice that `STORMFOLD_SINK` makes."""

import re
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import Any, Protocol

from stormfold.errors import ActionRequired, DeadLetter
from stormfold.settings import Settings

LAST_SEEN_LABEL = "stormfold.dev/last-seen"
"""Label of a manifest: epoch seconds of the storm's last alert; retention goes by it."""
KEEP_ANNOTATION = "stormfold.dev/keep"
"""Retention never deletes a storm with this annotation, whatever its value."""

_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")


Gone = Callable[[int], object]
"""Told how many storms went, which may be none, each time retention has got on by one request or file."""


class Outcome(Enum):
    """What came of a write; both mean that the storm is there."""

    CREATED = "created"
    EXISTS = "exists"


class Sink(Protocol):
    """Takes storms under their deterministic names: written before is success.

    All methods raise `ActionRequired` for what somebody must put right, and `Retry` for what passes.
    """

    concurrency: int
    """How many writes at a time bring anything."""

    async def start(self) -> None:
        """Checks that storms can be written, without writing one; may be called again after an error."""

    async def write(self, manifest: dict[str, Any], key: str) -> Outcome:
        """Writes the storm named `key`; raises `DeadLetter` where it can never fit."""

    async def retain(self, now: int, retention: int, max_storms: int, gone: Gone) -> None:
        """Deletes storms last seen more than `retention` ms before `now` (ms), then the oldest beyond `max_storms` in
        each namespace. Kept ones (`KEEP_ANNOTATION`) are neither deleted nor counted. Takes as long as it takes; `gone`
        is called in the thread of the event loop.
        """

    async def close(self) -> None:
        """Lets go of connections."""


def open_sink(spec: str, settings: Settings, namespaces: Iterable[str] = ("storms",)) -> Sink:
    """The sink that `spec` names: `kubernetes`, `directory:PATH` or `none`; raises `ActionRequired` for anything else.

    `namespaces` are those that the routes write to.
    """
    kind, _, place = spec.partition(":")
    if kind == "directory" and place:
        from stormfold.sinks.directory import DirectorySink

        return DirectorySink(place)
    if spec == "kubernetes":
        # The client takes half a second and 22 MB to import.
        from stormfold.sinks.kubernetes import KubernetesSink

        return KubernetesSink(settings.kubeconfig, settings.kube_context, namespaces)
    if spec == "none":
        from stormfold.sinks.null import NullSink

        return NullSink()
    raise ActionRequired(f"unknown sink {spec!r}", hint="Set STORMFOLD_SINK to kubernetes, directory:PATH or none.")


def identity(manifest: Mapping[str, Any], key: str) -> tuple[str, str]:
    """Namespace and name of a manifest; raises `DeadLetter` unless both are valid and the name is `key`."""
    metadata = manifest.get("metadata")
    if not isinstance(metadata, dict):
        raise DeadLetter("manifest has no metadata")
    namespace, name = metadata.get("namespace"), metadata.get("name")
    if not isinstance(namespace, str) or not _NAMESPACE.fullmatch(namespace):
        raise DeadLetter(f"namespace {namespace!r:.80} is not a DNS label")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise DeadLetter(f"name {name!r:.80} is not a DNS subdomain")
    if name != key:
        raise DeadLetter(f"name {name!r:.80} differs from the record's key {key!r:.80}")
    return namespace, name
