"""The kinds of resources that emit writes: AlertStorm and AlertIncident."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stormfold import incident_manifest, manifest
from stormfold.incident import Incident
from stormfold.scope import IncidentScope
from stormfold.storm import Aggregate, Example


@dataclass(frozen=True, slots=True)
class ResourceKind:
    """A kind of resource. Each has a definition in k8s/crd.yaml, rights of its own, and a consumer group."""

    name: str
    plural: str
    noun: str
    """What a resource of it is called in messages."""
    component: str
    """Name of its consumer group, without the prefix, and of its component in health and metrics."""
    folder: str
    """Folder of its files below that of the sink `directory`; empty: that folder."""
    limit_key: str
    """Key of the configuration that limits how many there are."""
    probe: Callable[[str], dict[str, Any]]
    """A valid manifest in a namespace, for a dry run."""


def _storm(namespace: str) -> dict[str, Any]:
    return manifest.to_manifest(
        Aggregate(
            name="stormfold-probe",
            namespace=namespace,
            aggregate_class="Storm",
            route="probe",
            group_labels={},
            pattern="{}",
            severity="none",
            alert_count=1,
            distinct=1,
            resolved=0,
            resource_count=0,
            resources=(),
            example=Example(),
            first_seen=0,
            last_seen=0,
            close_reason="Inactivity",
            late=0,
            truncated=False,
        )
    )


def _incident(namespace: str) -> dict[str, Any]:
    scope = IncidentScope(labels={}, gap=1, max_length=1, namespace=namespace, window_gap=1, rank=0)
    return incident_manifest.to_manifest(
        Incident(
            name="stormfold-probe",
            scope=scope,
            severity="none",
            alert_count=1,
            storm_count=1,
            other_group_count=0,
            resource_count=0,
            first_storm="stormfold-probe",
            first_pattern="{}",
            example=Example(),
            storms=(),
            other_groups=(),
            namespaces=(),
            resources=(),
            first_seen=0,
            last_seen=0,
            until=0,
            close_reason="Quiet",
        )
    )


STORMS = ResourceKind(
    name=manifest.KIND,
    plural="alertstorms",
    noun="storm",
    component="emit",
    folder="",
    limit_key="max_storms",
    probe=_storm,
)
INCIDENTS = ResourceKind(
    name=incident_manifest.KIND,
    plural="alertincidents",
    noun="incident",
    component="emit-incidents",
    folder="incidents",
    limit_key="incidents.max_incidents",
    probe=_incident,
)
KINDS = (STORMS, INCIDENTS)
