"""Conversions of incidents to manifests and back."""

import pytest
from hypothesis import given, settings

from stormfold.decoding import Malformed
from stormfold.incident import Incident
from stormfold.incident_manifest import decode_manifest, encode_manifest, from_manifest, to_manifest
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
