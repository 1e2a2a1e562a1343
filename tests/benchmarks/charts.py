"""Small SVG charts, readable on light and dark pages: curves over a logarithmic axis, and bars."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise

WIDTH, HEIGHT = 720, 300
LEFT, RIGHT, TOP, BOTTOM = 56, 150, 40, 40
BAR, GAP = 18, 14

Curve = Sequence[tuple[float, float]]

_STYLE = """\
<style>
text { font: 12px system-ui, sans-serif; fill: #57606a }
.title { font-weight: 600; font-size: 14px; fill: #1f2328 }
.grid { stroke: #d0d7de; stroke-width: 1 }
.line { fill: none; stroke-width: 2 }
.c0 { stroke: #0969da; fill: #0969da } .c1 { stroke: #bc4c00; fill: #bc4c00 }
.c2 { stroke: #1a7f37; fill: #1a7f37 } .c3 { stroke: #8250df; fill: #8250df }
text.c0, text.c1, text.c2, text.c3 { stroke: none }
@media (prefers-color-scheme: dark) {
  text { fill: #9198a1 } .title { fill: #f0f6fc } .grid { stroke: #3d444d }
  .c0 { stroke: #58a6ff; fill: #58a6ff } .c1 { stroke: #f0883e; fill: #f0883e }
  .c2 { stroke: #56d364; fill: #56d364 } .c3 { stroke: #bc8cff; fill: #bc8cff }
}
.line { fill: none }
</style>
"""


def curves(title: str, unit: str, found: Mapping[str, Curve]) -> str:
    """Draws curves by name over a logarithmic x axis; y begins at 0."""
    sizes = sorted({x for curve in found.values() for x, _ in curve})
    low, high = math.log10(sizes[0]), math.log10(sizes[-1])
    top = _round_up(max(y for curve in found.values() for _, y in curve))

    def place(x: float, y: float) -> tuple[float, float]:
        across = (math.log10(x) - low) / ((high - low) or 1)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - y / top * (HEIGHT - TOP - BOTTOM)

    parts = []
    for step in range(5):
        value = top * step / 4
        _, y = place(sizes[0], value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(LEFT - 8, y + 4, f"{value:g}", "end"))
    parts += [_text(place(x, 0)[0], HEIGHT - BOTTOM + 18, f"{x:,.0f}", "middle") for x in sizes]
    ends = _apart([place(*curve[-1])[1] for curve in found.values()])
    for number, ((name, curve), end) in enumerate(zip(found.items(), ends, strict=True)):
        points = [place(*point) for point in curve]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline class="line c{number}" points="{path}"/>')
        parts += [f'<circle class="c{number}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in points]
        parts.append(_text(points[-1][0] + 10, end + 4, name, kind=f"c{number}"))
    parts.append(_text(LEFT, TOP - 8, unit))
    return _svg(title, HEIGHT, parts)


def bars(title: str, unit: str, found: Mapping[str, float]) -> str:
    """Draws bars by name, on a logarithmic axis if they differ by more than a factor of 30."""
    values = list(found.values())
    wide = max(values) > 30 * min(values)
    base = 10 ** math.floor(math.log10(min(values))) / 2 if wide else 0.0
    left, right = 230, 110

    def length(value: float) -> float:
        share = math.log(value / base) / math.log(max(values) / base) if wide else value / max(values)
        return share * (WIDTH - left - right)

    parts = [_text(left, TOP, unit + (", logarithmic" if wide else ""))]
    for number, (name, value) in enumerate(found.items()):
        y = TOP + 12 + number * (BAR + GAP)
        parts.append(_text(left - 8, y + 13, name, "end"))
        parts.append(
            f'<rect class="c{number % 4}" x="{left}" y="{y}" width="{length(value):.1f}" height="{BAR}" rx="2"/>'
        )
        parts.append(_text(left + length(value) + 8, y + 13, _short(value)))
    return _svg(title, TOP + 12 + len(found) * (BAR + GAP), parts)


def _svg(title: str, height: int, parts: Sequence[str]) -> str:
    inside = "\n".join([_text(8, 18, title, kind="title"), *parts])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" role="img"'
        f' aria-label="{escape(title)}">\n{_STYLE}{inside}\n</svg>\n'
    )


def _text(x: float, y: float, text: str, anchor: str = "start", kind: str = "") -> str:
    named = f' class="{kind}"' if kind else ""
    return f'<text{named} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _round_up(value: float) -> float:
    """Returns the next of 1, 2, 4, 8 times a power of ten, whose quarters are round."""
    power = 10 ** math.floor(math.log10(value))
    return next(float(factor * power) for factor in (1, 2, 4, 8, 10, 20) if factor * power >= value)


def _apart(places: Sequence[float], minimum: float = 15) -> list[float]:
    """Returns the heights, moved down where two labels would overlap."""
    result = list(places)
    order = sorted(range(len(places)), key=lambda index: places[index])
    for before, index in pairwise(order):
        result[index] = max(result[index], result[before] + minimum)
    return result


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
