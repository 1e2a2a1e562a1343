"""Conversions of incidents to manifests and back."""

import msgspec
import pytest
from hypothesis import given, settings

from stormfold.decoding import Malformed
from stormfold.incident import Incident
from stormfold.incident_manifest import decode_manifest, encode_manifest, from_manifest, to_manifest
from stormfold.manifest import SCOPE_ANNOTATION
from tests.support.incident_manifests import manifest
from tests.unit.strategies import incidents

EXACT = settings(deadline=None, max_examples=200, print_blob=True)


@EXACT
@given(incidents)
def test_an_incident_survives_its_manifest(one: Incident) -> None:
    """The resource holds everything of the incident, also after a round trip through JSON."""
    assert from_manifest(to_manifest(one)) == one
    assert decode_manifest(encode_manifest(one)) == one


@pytest.mark.parametrize("value", [None, b"", b"{", b"[]", b"{}", b'{"metadata": {}, "spec": {}}'])
def test_another_record_is_refused(value: bytes | None) -> None:
    with pytest.raises(Malformed):
        decode_manifest(value)


@pytest.mark.parametrize("scope", ['{"deep":' + "[" * 10_000, "{}", 1])
def test_a_manifest_with_another_scope_is_refused(scope: object) -> None:
    """Also one that is nested too deeply to be decoded."""
    foreign = manifest()
    foreign["metadata"]["annotations"] = {SCOPE_ANNOTATION: scope}
    with pytest.raises(Malformed):
        decode_manifest(msgspec.json.encode(foreign))
