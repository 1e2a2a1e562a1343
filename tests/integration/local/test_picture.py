"""The picture in README is whole by itself, and tells what the demo does."""

import re
from xml.etree import ElementTree

from stormfold.local.incident import incident
from stormfold.local.view import MAX_STORMS
from tests.integration.local.expected import expected
from tests.integration.local.picture import PICTURE, lines

SVG = "{http://www.w3.org/2000/svg}"


def test_nothing_from_elsewhere() -> None:
    """It is well-formed, and has no address of anything but of what it is: who looks at it asks nobody."""
    text = PICTURE.read_text(encoding="utf-8")
    kinds = {part.tag.removeprefix(SVG) for part in ElementTree.fromstring(text).iter()}  # noqa: S314
    assert kinds == {"svg", "style", "defs", "clipPath", "rect", "g", "circle", "text"}
    assert re.findall(r"//[^\s\"'<>]*", text) == ["//www.w3.org/2000/svg"]
    assert set(re.findall(r"url\((.)", text)) == {"#"}
    assert "@" not in text and "href" not in text


def test_storms() -> None:
    """It shows the storms of the demo's incident with their numbers, and books of as many alerts; if not:
    `python -m tests.integration.local.picture` takes it anew."""
    shown = lines(PICTURE.read_text(encoding="utf-8"))
    groups = expected(incident(1, 0))
    storms = {name: group for name, group in groups.items() if group.storm_class == "Storm"}
    largest = sorted(storms, key=lambda name: -storms[name].alerts)[:MAX_STORMS]
    below = shown[shown.index("STORM SEVERITY ALERTS DISTINCT RESOLVED RESOURCES") + 2 :]
    assert [re.sub(r" (critical|error|warning|info|none)(?= \d)", "", line) for line in below[:MAX_STORMS]] == [
        f"{name} {of.alerts:,} {of.distinct:,} {of.resolved:,} {of.resources:,}"
        for name, of in ((name, storms[name]) for name in largest)
    ]
    alerts = sum(group.alerts for group in groups.values())
    assert any(line.startswith(f"{alerts:,} alerts, {len(storms)} manifests") for line in below)
    assert any("Counted exactly once" in line and f"{alerts:,} in {len(storms)} storms" in line for line in below)
