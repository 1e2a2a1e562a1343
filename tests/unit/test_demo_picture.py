"""The picture of the demo in the README."""

import re
from xml.etree import ElementTree

from stormfold.local.incident import incident
from stormfold.local.view import MAX_STORMS
from tests.integration.local.picture import PICTURE, lines
from tests.support.incident import expected

SVG = "{http://www.w3.org/2000/svg}"


def test_the_picture_loads_nothing_from_elsewhere() -> None:
    text = PICTURE.read_text(encoding="utf-8")
    kinds = {part.tag.removeprefix(SVG) for part in ElementTree.fromstring(text).iter()}  # noqa: S314
    assert kinds == {"svg", "style", "defs", "clipPath", "rect", "g", "circle", "text"}
    assert re.findall(r"//[^\s\"'<>]*", text) == ["//www.w3.org/2000/svg"]
    assert set(re.findall(r"url\((.)", text)) == {"#"}
    assert "@" not in text and "href" not in text


def test_the_picture_has_the_storms_of_the_incident() -> None:
    """Otherwise run `python -m tests.integration.local.picture` to take it again."""
    shown = lines(PICTURE.read_text(encoding="utf-8"))
    groups = expected(incident(1, 0))
    storms = {name: group for name, group in groups.items() if group.aggregate_class == "Storm"}
    largest = sorted(storms, key=lambda name: -storms[name].alerts)[:MAX_STORMS]
    below = shown[shown.index("STORM SEVERITY ALERTS DISTINCT RESOLVED RESOURCES") + 2 :]
    assert [re.sub(r" (critical|error|warning|info|none)(?= \d)", "", line) for line in below[:MAX_STORMS]] == [
        f"{name} {of.alerts:,} {of.distinct:,} {of.resolved:,} {of.resources:,}"
        for name, of in ((name, storms[name]) for name in largest)
    ]
    alerts = sum(group.alerts for group in groups.values())
    folded = sum(group.alerts for group in storms.values())
    assert any(line.startswith(f"{len(storms)} manifests stand for {folded:,} alerts: ") for line in below)
    assert any("Counted exactly once" in line and f"{alerts:,} in {len(storms)} storms" in line for line in below)
