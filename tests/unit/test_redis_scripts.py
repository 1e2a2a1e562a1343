"""Scripts and their typed functions: the header of each Lua file is the contract that the signature makes."""

import re
from importlib.resources import files
from itertools import takewhile

import pytest

from stormfold.redis import clock, close, fold, layout, lease, open_groups, versions
from stormfold.redis.script import Script

SCRIPTS = [
    found for module in (clock, close, fold, lease, open_groups, versions) for found in vars(module).values()
    if isinstance(found, Script)
]  # fmt: skip


def _header(script: Script[...]) -> str:
    return "\n".join(takewhile(lambda line: line.startswith("--"), script.body.splitlines()))


def test_every_lua_file_has_one_typed_function_or_is_a_library() -> None:
    present = {file.name.removesuffix(".lua") for file in files("stormfold.redis").iterdir() if ".lua" in file.name}
    assert sorted([*(script.name for script in SCRIPTS), "bucket", "commands", "groups"]) == sorted(present)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_the_header_lists_keys_and_arguments_of_the_signature_in_order(script: Script[...]) -> None:
    purpose, keys, arguments, replies = re.split(r"\n--\n-- KEYS\n|\n-- ARGV\n|\n-- Returns\n", _header(script))
    assert purpose.startswith("-- ") and replies
    for listed, names in ((keys, script.keys), (arguments, list(script.arguments))):
        found = re.findall(r"^-- {1,3}(\d+) (\w+)", listed, re.MULTILINE)
        assert found == [(str(index), name) for index, name in enumerate(names, 1)]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_a_script_that_writes_names_a_key_that_never_exists(script: Script[...]) -> None:
    """So a cluster that moves the slot refuses the call, as one of its keys is missing, before it has written half."""
    writes = re.search(r"'(SET|DEL|UNLINK|RENAME|HSET|HDEL|HINCRBY|ZADD|ZREM|PEXPIRE)'", script.body)
    assert not writes or "void" in script.keys


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_no_format_flag_or_field_name_stands_in_a_script(script: Script[...]) -> None:
    code = "\n".join(line for line in (script.library + script.body).splitlines() if not line.strip().startswith("--"))
    quoted = set(re.findall(r"'([^']*)'", code))
    commands = {text for text in quoted if text.isupper()}
    assert quoted - commands <= {"", "-inf", "%d", "^%d+$", "c0", "0"}
    assert not re.search(r"\b(KEYS|ARGV)\b", code)


def test_lua_formats_have_the_sizes_of_the_packed_values() -> None:
    constants = layout.lua_constants()
    assert constants["SUMMARY"] == ">I4I8I8I4BBI4BB"
    assert constants["LONG_MEMBER"] == ">I4I4"
    assert (constants["ROW_GROUP"], constants["ROW_PREFIXES"]) == (1, 18)


def test_every_constant_is_used_by_a_script() -> None:
    bodies = "\n".join(script.library + script.body for script in SCRIPTS)
    unused = [name for name in layout.lua_constants() if not re.search(rf"\b{name}\b", bodies)]
    assert unused == []
