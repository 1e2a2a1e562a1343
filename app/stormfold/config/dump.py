"""A configuration in the shape of its file."""

from typing import Any

import yaml

from stormfold.config.fields import OFF, ON
from stormfold.config.model import Config
from stormfold.config.schema import ALL_LABELS
from stormfold.formats.mappings import to_document
from stormfold.routing import Route, Silence
from stormfold.times import format_duration, format_timestamp


def dump(config: Config) -> str:
    """The configuration as YAML; `loads` reads an equal one from it."""
    return yaml.safe_dump(document(config), sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)


def document(config: Config) -> dict[str, Any]:
    """The configuration in the shape of the file, with every default written out."""
    return {
        "windows": {
            "gap": format_duration(config.windows.gap),
            "grace": format_duration(config.windows.grace),
            "slice": format_duration(config.windows.slice_length),
        },
        "idle_timeout": format_duration(config.idle_timeout),
        "routes": [_route(route) for route in config.routes],
        "incidents": _incidents(config),
        "silences": [_silence(silence) for silence in config.silences],
        "severity": {
            "label": config.severity_label,
            "order": list(config.severities),
            "aliases": dict(config.severity_aliases),
        },
        "default_labels": dict(config.default_labels),
        "resource_labels": dict(config.resource_labels),
        "exporters": list(config.exporters),
        "mappings": [to_document(mapping) for mapping in config.mappings],
        "limits": {
            "max_resources": config.max_resources,
            "max_fingerprints": config.max_fingerprints,
            "max_groups": config.max_groups,
        },
        "publish": list(config.publish),
        "retention": format_duration(config.retention),
        "max_storms": config.max_storms,
    }


def _route(route: Route) -> dict[str, Any]:
    return {
        "name": route.name,
        "match": [str(matcher) for matcher in route.match],
        "group_by": [ALL_LABELS] if route.group_by is None else list(route.group_by),
        "storm_when": {
            "alerts": route.storm_alerts,
            "resources": route.storm_resources,
            "severity": route.storm_severity,
            "new_for": OFF if route.new_for is None else format_duration(route.new_for),
        },
        "namespace": route.namespace,
        "incidents": ON if route.incidents else OFF,
    }


def _incidents(config: Config) -> dict[str, Any] | str:
    rules = config.incidents
    if rules is None:
        return OFF
    return {
        "by": list(rules.by),
        "gap": format_duration(rules.gap),
        "max": format_duration(rules.max_length),
        "namespace": rules.namespace,
        "retention": format_duration(config.incident_retention),
        "max_incidents": config.max_incidents,
    }


def _silence(silence: Silence) -> dict[str, Any]:
    times = {"starts": silence.starts, "ends": silence.ends}
    return {
        "name": silence.name,
        "match": [str(matcher) for matcher in silence.match],
        **{key: format_timestamp(time) for key, time in times.items() if time is not None},
    }
