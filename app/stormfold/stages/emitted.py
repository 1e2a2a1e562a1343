"""What a worker with the stage `emit` writes of each kind of resource, and how long it stays."""

from typing import Any

import msgspec

from stormfold.config import Config, ReloadableConfig
from stormfold.config.model import INCIDENT
from stormfold.decoding import Malformed, decode_untrusted
from stormfold.errors import DeadLetter
from stormfold.kafka._patches import Record
from stormfold.settings import Settings
from stormfold.sinks import is_namespace
from stormfold.sinks.kinds import STORMS, ResourceKind


class _Metadata(msgspec.Struct):
    name: str = ""
    namespace: str = ""


class _Spec(msgspec.Struct):
    record_class: str = msgspec.field(default="", name="class")


class _Head(msgspec.Struct):
    """The part of a manifest that decides where its record goes."""

    metadata: _Metadata
    spec: _Spec


_head = msgspec.json.Decoder(_Head)
_json = msgspec.json.Decoder()


class Emitted:
    """One kind of resource. Emit and retention have an instance for each, so that one delays nothing of the other.

    A reloaded configuration applies from the next record on.
    """

    def __init__(self, kind: ResourceKind, settings: Settings, configuration: ReloadableConfig) -> None:
        self.kind = kind
        self._configuration = configuration
        if kind is STORMS:
            self.topic, self.dlq_topic = settings.storms_topic, settings.storms_dlq_topic
        else:
            self.topic, self.dlq_topic = settings.incidents_topic, settings.incidents_dlq_topic

    @property
    def config(self) -> Config:
        """The configuration that applies now."""
        return self._configuration.current.config

    @property
    def namespaces(self) -> list[str]:
        """Namespaces that the configuration names; empty if none of the kind is published."""
        config = self.config
        if self.kind is STORMS:
            published = any(name != INCIDENT for name in config.publish)
            return sorted({route.namespace for route in config.routes}) if published else []
        return [config.incidents.namespace] if config.incidents and INCIDENT in config.publish else []

    @property
    def retention(self) -> int:
        """Milliseconds since the last alert, after which a resource is deleted."""
        return self.config.retention if self.kind is STORMS else self.config.incident_retention

    @property
    def limit(self) -> int:
        """Most resources in a namespace."""
        return self.config.max_storms if self.kind is STORMS else self.config.max_incidents

    def namespace_of(self, record: Record) -> str | None:
        """The namespace to write a record to; None if nothing is to be written, empty if it has no valid one."""
        try:
            head = decode_untrusted(_head.decode, record.value or b"")
        except Malformed:
            return ""
        # Incidents have no class: all of them are published, or none. A storm without one becomes a dead letter.
        record_class = head.spec.record_class if self.kind is STORMS else INCIDENT
        if record_class and record_class not in self.config.publish and head.metadata.name.encode() == record.key:
            return None
        return head.metadata.namespace if is_namespace(head.metadata.namespace) else ""

    def decode(self, record: Record) -> dict[str, Any]:
        """The manifest in a record. Raises `DeadLetter` if it is not of this kind."""
        try:
            manifest: dict[str, Any] = decode_untrusted(_json.decode, record.value or b"")
            if manifest["metadata"]["name"].encode() != record.key:
                raise DeadLetter(f"the key is not the {self.kind.noun}'s name")
            if self.kind is STORMS:
                manifest["spec"]["class"]
        except (Malformed, KeyError, TypeError, AttributeError) as error:
            raise DeadLetter(f"not a {self.kind.noun}: {error}") from error
        return manifest
