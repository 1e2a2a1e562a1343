"""YAML in block style: parsers give back the manifest that was written, and a person can read it."""

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from stormfold.sinks.block_yaml import MAX_SIMPLE_KEY, dump
from tests.support.storms import AWKWARD
from tests.unit.strategies import texts

LONG = ["k" * (MAX_SIMPLE_KEY + 1), '"' * MAX_SIMPLE_KEY]
keys = texts | st.sampled_from(LONG)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4), max_leaves=20
)


@given(st.dictionaries(keys, values, max_size=5))
def test_every_object_is_read_back_as_it_was(manifest: dict[str, Any]) -> None:
    text = dump(manifest)
    assert yaml.load(text, yaml.CSafeLoader) == manifest
    assert all(character.isprintable() for line in text.split("\n") for character in line)


@pytest.mark.parametrize("text", [*AWKWARD, "Yes", "OFF", "n", "null", "NULL", "trailing.", "a-", "e3"])
def test_awkward_text_is_read_back_as_a_key_a_value_and_an_item(text: str) -> None:
    manifest = {text: [text, {text: text}]}
    assert yaml.load(dump(manifest), yaml.CSafeLoader) == manifest


def test_a_manifest_is_in_block_style() -> None:
    manifest = {
        "apiVersion": "stormfold.dev/v1alpha1",
        "metadata": {"name": "x-1", "labels": {"stormfold.dev/last-seen": "1796038433"}},
        "spec": {
            "pattern": 'Down{cluster="prod"}',
            "alertCount": 3,
            "truncated": False,
            "continues": None,
            "groupLabels": {},
            "storms": [],
            "affectedResources": [{"kind": "Pod", "name": "api-7d9f-x2x"}, {"kind": "Node", "name": "7"}],
            "lists": [["a1", "b1"]],
        },
    }
    assert dump(manifest) == (
        "apiVersion: stormfold.dev/v1alpha1\n"
        "metadata:\n"
        "  name: x-1\n"
        "  labels:\n"
        '    stormfold.dev/last-seen: "1796038433"\n'
        "spec:\n"
        '  pattern: "Down{cluster=\\"prod\\"}"\n'
        "  alertCount: 3\n"
        "  truncated: false\n"
        "  continues: null\n"
        "  groupLabels: {}\n"
        "  storms: []\n"
        "  affectedResources:\n"
        "  - kind: Pod\n"
        "    name: api-7d9f-x2x\n"
        "  - kind: Node\n"
        '    name: "7"\n'
        "  lists:\n"
        "  - - a1\n"
        "    - b1\n"
    )


@pytest.mark.parametrize("value", ["\ud800", b"bytes", ("a", "b"), {1: 2}, object()])
def test_what_no_parser_would_give_back_is_refused(value: Any) -> None:
    with pytest.raises((TypeError, UnicodeEncodeError)):
        dump({"a": value})
