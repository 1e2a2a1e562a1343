"""The definition of AlertStorm in a real API server."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from stormfold import storm as core
from stormfold.config import Config
from stormfold.sinks.directory import dump
from tests.support.apiserver import STORMS, Answer, ApiServer
from tests.support.storms import AWKWARD, NAME, manifest

CRD = yaml.safe_load((Path(__file__).parents[3] / "k8s" / "crd.yaml").read_text())
(VERSION,) = CRD["spec"]["versions"]
SPEC = VERSION["schema"]["openAPIV3Schema"]["properties"]["spec"]


def create(storms: ApiServer, storm: dict[str, Any]) -> Answer:
    return storms.request("POST", f"{STORMS}?fieldValidation=Strict", storm)


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


def test_the_definition_is_established_with_a_structural_schema(apiserver: ApiServer) -> None:
    answer = apiserver.request(
        "GET", f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{CRD['metadata']['name']}"
    )
    conditions = {condition["type"]: condition["status"] for condition in answer.body["status"]["conditions"]}
    assert conditions["Established"] == conditions["NamesAccepted"] == "True"
    assert conditions.get("NonStructuralSchema", "False") == "False"
    assert answer.body["spec"]["versions"][0]["schema"] == VERSION["schema"]


def test_every_string_list_and_map_has_a_limit() -> None:
    for path, field in fields(VERSION["schema"]["openAPIV3Schema"]):
        if path in (".apiVersion", ".kind", ".metadata"):
            continue
        match field["type"]:
            case "string":
                assert field.keys() & {"maxLength", "enum"}, path
            case "array":
                assert "maxItems" in field, path
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
        fields["affectedResources"]["items"]["properties"]["namespace"],
        fields["affectedResources"]["items"]["properties"]["name"],
    ):
        assert text["maxLength"] == core.MAX_VALUE_BYTES
    assert set(fields["class"]["enum"]) == set(get_args(core.AggregateClass))


def test_every_field_has_a_description_for_kubectl_explain() -> None:
    for path, field in fields(VERSION["schema"]["openAPIV3Schema"]):
        if not path.endswith("[]") and path not in (".apiVersion", ".kind", ".metadata"):
            assert field.get("description", "").endswith("."), path


@pytest.mark.parametrize("field", sorted(SPEC["properties"]))
def test_a_resource_without_a_required_field_is_refused(storms: ApiServer, field: str) -> None:
    storm = manifest()
    del storm["spec"][field]
    answer = create(storms, storm)
    assert answer.status == 422
    assert f"spec.{field}" in answer.body["message"]


def test_a_resource_without_a_spec_is_refused(storms: ApiServer) -> None:
    storm = manifest()
    del storm["spec"]
    assert create(storms, storm).status == 422


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


def test_an_unknown_field_is_refused_and_not_dropped(storms: ApiServer) -> None:
    assert create(storms, manifest(mood="stormy")).status == 400


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
    names = CRD["spec"]["names"]
    assert {"storm", "storms"} == set(names["shortNames"])


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
