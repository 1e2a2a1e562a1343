"""The changelog names what exists today."""

import re

import pytest

from stormfold import __version__
from stormfold.settings import Settings, variable
from tests.docs import ROOT

CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
METRICS = (ROOT / "docs" / "reference" / "metrics.md").read_text()
UNRELEASED = CHANGELOG.split("\n## ")[1]
RENAMED = re.findall(r"^ *\| `([^|]+)` \| `([^|]+)` \|$", UNRELEASED, re.MULTILINE)


def test_the_first_section_is_unreleased_or_the_version_of_the_package() -> None:
    assert UNRELEASED.startswith(("[Unreleased]", f"[{__version__}]"))


@pytest.mark.parametrize(("old", "new"), [names for names in RENAMED if names[0].startswith("STORMFOLD_")])
def test_renamed_variables_exist(old: str, new: str) -> None:
    known = {variable(name) for name in Settings.model_fields}
    assert new in known and old not in known


@pytest.mark.parametrize(("old", "new"), [names for names in RENAMED if names[0].startswith("stormfold_")])
def test_renamed_metrics_exist(old: str, new: str) -> None:
    name, label = re.match(r"(\w+)(?:\{(\w+)\})?", new).groups()  # type: ignore[union-attr]
    (row,) = re.findall(rf"^\| `{name}` .*", METRICS, re.MULTILINE)
    assert label is None or f"`{label}`" in row
    assert old == new or f"`{old.split('{')[0]}`" not in METRICS or old.split("{")[0] == name
