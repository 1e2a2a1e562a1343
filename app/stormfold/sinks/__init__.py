"""Sinks write resources of one kind: one protocol, and the choice that `STORMFOLD_SINK` makes."""

import re
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import Any, Protocol

from stormfold.errors import ActionRequired, DeadLetter
from stormfold.settings import Settings
from stormfold.sinks.kinds import STORMS, ResourceKind

LAST_SEEN_LABEL = "stormfold.dev/last-seen"
"""Label of a resource: Unix time in seconds of its last alert. Retention depends on it."""
KEEP_ANNOTATION = "stormfold.dev/keep"
"""Retention never deletes a resource with this annotation, whatever its value."""

_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")


OnDeleted = Callable[[int], object]
"""Called after each request or file of a retention run, with the number of resources it deleted, often 0."""


class Outcome(Enum):
    """The result of a write. In both cases the resource exists."""

    CREATED = "created"
    EXISTS = "exists"


class Sink(Protocol):
    """Creates resources of one kind under their deterministic names. To write one again is a success.

    All methods raise `ActionRequired` if a person must correct something, and `Retry` for temporary errors.
    """

    concurrency: int
    """Number of parallel writes that still increases throughput."""

    async def check(self, namespace: str) -> None:
        """Checks that resources can be created in a namespace, without creating one."""

    async def write(self, manifest: dict[str, Any], key: str) -> Outcome:
        """Creates the resource named `key`. Raises `DeadLetter` if it can never be created."""

    async def delete_expired(
        self, namespaces: Iterable[str], now: int, retention: int, limit: int, on_deleted: OnDeleted
    ) -> None:
        """Deletes resources in these namespaces: those last seen more than `retention` ms before `now` (ms), then the
        oldest where there are more than `limit`. Those with `KEEP_ANNOTATION` are neither deleted nor counted.

        This can take minutes. `on_deleted` is called in the thread of the event loop.
        """

    async def close(self) -> None:
        """Closes connections."""


def open_sink(spec: str, settings: Settings, kind: ResourceKind = STORMS) -> Sink:
    """The sink that `spec` names: `kubernetes`, `directory:PATH` or `none`. Raises `ActionRequired` for any other."""
    name, _, path = spec.partition(":")
    if name == "directory" and path:
        from stormfold.sinks.directory import DirectorySink

        return DirectorySink(path, kind)
    if spec == "kubernetes":
        # The client takes half a second and 22 MB to import.
        from stormfold.sinks.kubernetes import KubernetesSink

        return KubernetesSink(settings.kubeconfig, settings.kube_context, kind)
    if spec == "none":
        from stormfold.sinks.null import NullSink

        return NullSink()
    raise ActionRequired(f"unknown sink {spec!r}", hint="set STORMFOLD_SINK to kubernetes, directory:PATH or none")


def is_namespace(text: str) -> bool:
    """Whether a namespace can have this name."""
    return _NAMESPACE.fullmatch(text) is not None


def validate_identity(manifest: Mapping[str, Any], key: str) -> tuple[str, str]:
    """Namespace and name of a manifest. Raises `DeadLetter` unless both are valid and the name is `key`."""
    metadata = manifest.get("metadata")
    if not isinstance(metadata, dict):
        raise DeadLetter("manifest has no metadata")
    namespace, name = metadata.get("namespace"), metadata.get("name")
    if not isinstance(namespace, str) or not is_namespace(namespace):
        raise DeadLetter(f"namespace {namespace!r:.80} is not a DNS label")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise DeadLetter(f"name {name!r:.80} is not a DNS subdomain")
    if name != key:
        raise DeadLetter(f"name {name!r:.80} differs from the record's key {key!r:.80}")
    return namespace, name
