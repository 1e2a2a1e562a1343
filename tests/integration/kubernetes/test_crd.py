"""The definitions of AlertStorm and AlertIncident in a real API server."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from stormfold import incident_manifest
from stormfold import storm as core
from stormfold.config import Config
from stormfold.incident import IncidentCloseReason
from stormfold.manifest import from_manifest
from stormfold.manifest import to_manifest as manifest_of
from stormfold.sinks.block_yaml import dump
from stormfold.sinks.kubernetes import MAX_BYTES
from tests.support import incident_manifests as incidents
from tests.support.apiserver import INCIDENTS, STORMS, Answer, ApiServer
from tests.support.storms import AWKWARD, NAME, manifest

DEFINITIONS = {
    found["spec"]["names"]["kind"]: found
    for found in yaml.safe_load_all((Path(__file__).parents[3] / "k8s" / "crd.yaml").read_text())
}
SCHEMAS = {kind: found["spec"]["versions"][0]["schema"]["openAPIV3Schema"] for kind, found in DEFINITIONS.items()}
SPEC = SCHEMAS["AlertStorm"]["properties"]["spec"]
INCIDENT_SPEC = SCHEMAS["AlertIncident"]["properties"]["spec"]
each_kind = pytest.mark.parametrize("kind", DEFINITIONS)


def resource(kind: str, **spec: Any) -> dict[str, Any]:
    """An example of a kind, with changed fields of `spec`."""
    return manifest(**spec) if kind == "AlertStorm" else incidents.manifest(**spec)


def create(storms: ApiServer, found: dict[str, Any]) -> Answer:
    path = STORMS if found["kind"] == "AlertStorm" else INCIDENTS
    return storms.request("POST", f"{path}?fieldValidation=Strict", found)


def patch(storms: ApiServer, change: dict[str, Any], subresource: str = "") -> Answer:
    return storms.request("PATCH", f"{STORMS}/{NAME}{subresource}", change, content_type="application/merge-patch+json")


def fields(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """All schemas in a schema, by path."""
    for name, field in schema.get("properties", {}).items():
        yield f"{path}.{name}", field
        yield from fields(field, f"{path}.{name}")
    for part in ("items", "additionalProperties"):
        if part in schema:
            yield f"{path}[]", schema[part]
            yield from fields(schema[part], f"{path}[]")


@each_kind
def test_the_definition_is_established_with_a_structural_schema(apiserver: ApiServer, kind: str) -> None:
    name = DEFINITIONS[kind]["metadata"]["name"]
    answer = apiserver.request("GET", f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}")
    conditions = {condition["type"]: condition["status"] for condition in answer.body["status"]["conditions"]}
    assert conditions["Established"] == conditions["NamesAccepted"] == "True"
    assert conditions.get("NonStructuralSchema", "False") == "False"
    assert answer.body["spec"]["versions"][0]["schema"]["openAPIV3Schema"] == SCHEMAS[kind]


@each_kind
def test_every_string_list_and_map_has_a_limit(kind: str) -> None:
    for path, field in fields(SCHEMAS[kind]):
        if path in (".apiVersion", ".kind", ".metadata"):
            continue
        match field["type"]:
            case "string":
                assert field.keys() & {"maxLength", "enum"}, path
            case "array":
                assert "maxItems" in field and "x-kubernetes-list-type" in field, path
            case "object":
                assert "properties" in field or "maxProperties" in field, path
            case "integer":
                assert field["format"] == "int64" and "minimum" in field, path
            case other:
                assert other == "boolean", path


def test_the_limits_of_the_definition_are_those_of_the_code() -> None:
    fields = SPEC["properties"]
    assert fields["pattern"]["maxLength"] == core.MAX_PATTERN_BYTES
    assert fields["groupLabels"]["maxProperties"] == core.MAX_GROUP_LABELS
    assert fields["affectedResources"]["maxItems"] >= Config().max_resources
    for text in (
        fields["groupLabels"]["additionalProperties"],
        *(part["additionalProperties"] for part in fields["example"]["properties"].values()),
        *(fields["affectedResources"]["items"]["properties"][name] for name in ("kind", "namespace", "name")),
    ):
        assert text["maxLength"] == core.MAX_VALUE_BYTES
    assert set(fields["class"]["enum"]) == set(get_args(core.AggregateClass))


def test_the_limits_of_incidents_are_those_of_their_storms() -> None:
    fields = INCIDENT_SPEC["properties"]
    started = fields["startedWith"]["properties"]
    assert started["example"]["properties"] == SPEC["properties"]["example"]["properties"]
    assert started["pattern"]["maxLength"] == core.MAX_PATTERN_BYTES
    assert fields["affectedResources"]["items"] == SPEC["properties"]["affectedResources"]["items"]
    assert set(fields["closeReason"]["enum"]) == set(get_args(IncidentCloseReason))


@each_kind
def test_the_definition_has_exactly_the_fields_of_a_manifest(kind: str) -> None:
    """Optional fields are set; an absent one that is required, or an unknown one, would be refused."""
    conversions: Any = {
        "AlertStorm": lambda: manifest_of(from_manifest(manifest())),
        "AlertIncident": lambda: incident_manifest.to_manifest(
            incident_manifest.from_manifest(incidents.manifest(continues="before"))
        ),
    }
    schema, spec = SCHEMAS[kind]["properties"]["spec"], conversions[kind]()["spec"]
    assert set(schema["properties"]) == set(spec)
    assert set(schema["properties"]) - set(schema["required"]) <= {"continues"}
    for name, value in spec.items():
        inner = schema["properties"][name]
        for entry in value if isinstance(value, list) else [value] if "properties" in inner else []:
            assert set(entry) <= set(inner.get("items", inner)["properties"]), name


@each_kind
def test_every_field_has_a_description_for_kubectl_explain(kind: str) -> None:
    for path, field in fields(SCHEMAS[kind]):
        if not path.endswith("[]") and path not in (".apiVersion", ".kind", ".metadata"):
            assert field.get("description", "").endswith("."), path


@pytest.mark.parametrize(
    ("kind", "field"),
    [(kind, field) for kind, schema in SCHEMAS.items() for field in sorted(schema["properties"]["spec"]["required"])],
)
def test_a_resource_without_a_required_field_is_refused(storms: ApiServer, kind: str, field: str) -> None:
    found = resource(kind)
    del found["spec"][field]
    answer = create(storms, found)
    assert answer.status == 422
    assert f"spec.{field}" in answer.body["message"]


@each_kind
def test_a_resource_without_a_spec_is_refused(storms: ApiServer, kind: str) -> None:
    found = resource(kind)
    del found["spec"]
    assert create(storms, found).status == 422


@pytest.mark.parametrize(
    "wrong",
    [
        {"class": "Hurricane"},
        {"closeReason": "Whim"},
        {"alertCount": 0},
        {"alertCount": "412"},
        {"lateAlerts": -1},
        {"firstSeen": "yesterday"},
        {"truncated": "no"},
        {"severity": None},
        {"pattern": "p" * 2049},
        {"groupLabels": {f"l{number}": "v" for number in range(65)}},
        {"groupLabels": {"l": "v" * 1025}},
        {"affectedResources": [{"kind": "Pod", "name": "p", "alerts": 1}] * 1001},
        {"affectedResources": [{"kind": "Pod", "name": "p" * 1025, "alerts": 1}]},
        {"affectedResources": [{"kind": "Pod", "alerts": 1}]},
    ],
    ids=lambda wrong: str(wrong)[:40],
)
def test_an_invalid_value_is_refused_and_its_field_named(storms: ApiServer, wrong: dict[str, Any]) -> None:
    answer = create(storms, manifest(**wrong))
    assert answer.status == 422
    assert any(cause["field"].startswith(f"spec.{next(iter(wrong))}") for cause in answer.body["details"]["causes"])


@pytest.mark.parametrize(
    "wrong",
    [
        {"closeReason": "Inactivity"},
        {"alertCount": 0},
        {"stormCount": 0},
        {"otherGroupCount": -1},
        {"until": "later"},
        {"continues": "c" * 254},
        {"labels": {f"l{number}": "v" for number in range(17)}},
        {"startedWith": {"storm": "s", "pattern": "{}"}},
        {"storms": [{}]},
        {"namespaces": [{"name": "n", "alerts": 1}] * 51},
    ],
    ids=lambda wrong: str(wrong)[:40],
)
def test_an_invalid_value_of_an_incident_is_refused_and_its_field_named(
    storms: ApiServer, wrong: dict[str, Any]
) -> None:
    answer = create(storms, incidents.manifest(**wrong))
    assert answer.status == 422
    assert any(cause["field"].startswith(f"spec.{next(iter(wrong))}") for cause in answer.body["details"]["causes"])


@each_kind
def test_an_unknown_field_is_refused_and_not_dropped(storms: ApiServer, kind: str) -> None:
    assert create(storms, resource(kind, mood="stormy")).status == 400


@pytest.mark.parametrize(
    "change",
    [{"spec": {"alertCount": 413}}, {"spec": {"groupLabels": {"more": "x"}}}, {"spec": None}],
    ids=["value", "addition", "removal"],
)
def test_the_spec_cannot_be_changed_by_an_administrator(storms: ApiServer, change: dict[str, Any]) -> None:
    assert create(storms, manifest()).status == 201
    assert patch(storms, change).status == 422
    assert storms.storms()[NAME]["spec"] == manifest()["spec"]


def test_a_resource_can_be_annotated(storms: ApiServer) -> None:
    assert create(storms, manifest()).status == 201
    assert patch(storms, {"metadata": {"annotations": {"stormfold.dev/keep": "postmortem"}}}).status == 200


def test_conditions_are_written_through_status_alone(storms: ApiServer) -> None:
    """There is one condition of each type."""
    create(storms, manifest())
    condition = {
        "type": "Acknowledged",
        "status": "True",
        "reason": "Paged",
        "message": "",
        "lastTransitionTime": "2026-01-01T00:05:00Z",
    }
    status = {"status": {"conditions": [condition]}}
    assert "status" not in patch(storms, status).body
    assert patch(storms, status, "/status").body["status"] == status["status"]
    twice = copy.deepcopy(status)
    twice["status"]["conditions"] *= 2
    assert patch(storms, twice, "/status").status == 422


def test_controllers_can_watch_one_class_or_severity(storms: ApiServer) -> None:
    for name, storm_class, severity in (("a", "Storm", "critical"), ("b", "Storm", "info"), ("c", "Isolated", "info")):
        spec: dict[str, Any] = {"class": storm_class, "severity": severity}
        assert create(storms, manifest(name, **spec)).status == 201

    def selected(selector: str) -> set[str]:
        answer = storms.request("GET", f"{STORMS}?fieldSelector={selector}")
        return {item["metadata"]["name"] for item in answer.body["items"]}

    assert selected("spec.class=Storm") == {"a", "b"}
    assert selected("spec.class=Storm,spec.severity=info") == {"b"}


def test_kubectl_get_shows_every_column(storms: ApiServer) -> None:
    create(storms, manifest())
    accept = "application/json;as=Table;g=meta.k8s.io;v=v1"
    table = storms.request("GET", STORMS, accept=accept).body
    row = dict(zip((column["name"] for column in table["columnDefinitions"]), table["rows"][0]["cells"], strict=True))
    assert list(row)[:8] == ["Name", "Class", "Severity", "Alerts", "Resources", "First", "Last", "Pattern"]
    assert row["Alerts"] == 412
    assert row["Pattern"] == 'KubePodCrashLooping{cluster="prod"}'
    names = DEFINITIONS["AlertStorm"]["spec"]["names"]
    assert {"storm", "storms"} == set(names["shortNames"])


def test_kubectl_get_shows_an_incident_and_what_it_started_with(storms: ApiServer) -> None:
    create(storms, incidents.manifest())
    table = storms.request("GET", INCIDENTS, accept="application/json;as=Table;g=meta.k8s.io;v=v1").body
    row = dict(zip((column["name"] for column in table["columnDefinitions"]), table["rows"][0]["cells"], strict=True))
    shown = ["Name", "Severity", "Alerts", "Storms", "Resources", "Started with", "First", "Last"]
    assert list(row)[:8] == shown and list(row)[-1] == "Age"
    assert (row["Alerts"], row["Storms"], row["Started with"]) == (239, 1, '{node="worker-7"}')


def test_the_spec_of_an_incident_cannot_be_changed(storms: ApiServer) -> None:
    assert create(storms, incidents.manifest()).status == 201
    change = {"spec": {"alertCount": 240}}
    path = f"{INCIDENTS}/{incidents.NAME}"
    answer = storms.request("PATCH", path, change, content_type="application/merge-patch+json")
    assert answer.status == 422
    condition = {
        "type": "Acknowledged",
        "status": "True",
        "reason": "Paged",
        "message": "",
        "lastTransitionTime": "2026-01-01T00:05:00Z",
    }
    status = {"status": {"conditions": [condition]}}
    answer = storms.request("PATCH", f"{path}/status", status, content_type="application/merge-patch+json")
    assert answer.body["status"] == status["status"]


def test_an_incident_at_every_limit_is_stored(storms: ApiServer) -> None:
    """The cost of its validation is within the limits of the API server, and its size within those of its store."""
    example = incidents.manifest()["spec"]["storms"][0]
    found = incidents.manifest(
        "largest",
        labels={f"label-{number}": "é" * 1024 for number in range(16)},
        startedWith={
            "storm": "s" * 253,
            "pattern": "é" * 2048,
            "example": {part: {f"name-{n}": "é" * 1024 for n in range(16)} for part in ("labels", "annotations")},
        },
        storms=[{**example, "name": f"{number:0253d}", "pattern": "é" * 256} for number in range(200)],
        otherGroups=[{"pattern": "é" * 256, "alertCount": 2**53, "firstSeen": example["firstSeen"]}] * 50,
        namespaces=[{"name": "é" * 1024, "alerts": 2**53}] * 50,
        affectedResources=[
            {"kind": "K" * 63, "namespace": "n" * 63, "name": f"{number:0253d}", "alerts": 2**53}
            for number in range(200)
        ],
        continues="c" * 253,
        truncated=True,
    )
    assert len(json.dumps(found, ensure_ascii=False).encode()) < MAX_BYTES
    assert create(storms, found).status == 201
    assert storms.incidents()["largest"]["spec"] == found["spec"]


def test_a_resource_at_every_limit_is_stored(storms: ApiServer) -> None:
    """The cost of its validation is within the limits of the API server."""
    storm = manifest(
        "largest",
        pattern="é" * 2048,
        groupLabels={f"label-{number}": "é" * 1024 for number in range(64)},
        affectedResources=[
            {"kind": "Pod", "namespace": "n" * 63, "name": f"{number:0253d}", "alerts": 2**53} for number in range(1000)
        ],
    )
    assert create(storms, storm).status == 201
    assert storms.storms()["largest"]["spec"] == storm["spec"]


def test_kubernetes_reads_the_files_of_the_directory_sink_unchanged(storms: ApiServer) -> None:
    """Some strings look like numbers, booleans or YAML syntax."""
    storm = manifest(
        affectedResources=[{"kind": "Pod", "name": text, "alerts": 1} for text in AWKWARD],
        groupLabels={text[:60] or "empty": text for text in AWKWARD},
    )
    answer = storms.request(
        "POST", f"{STORMS}?fieldValidation=Strict", dump(storm).encode(), content_type="application/yaml"
    )
    assert answer.status == 201, answer
    assert answer.body["spec"] == storm["spec"]
