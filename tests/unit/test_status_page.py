"""The HTML of the status page."""

from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stormfold.health import Problem
from stormfold.redis.open_groups import TopGroups
from stormfold.status.live import Progress, Source
from stormfold.text import escape_unprintable
from stormfold.web import render
from stormfold.web.render import Sections, render_sections
from tests.support.status_page import EMPTY, NOW, filled


class Read(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, sections: Sections) -> None:
        super().__init__()
        self.elements: list[tuple[str, Any]] = []
        self.text = ""
        for section in sections.values():
            self.feed(section)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "wbr":
            self.elements.append((tag, attrs))

    def handle_comment(self, data: str) -> None:
        self.elements.append(("comment", data))

    def handle_decl(self, decl: str) -> None:
        self.elements.append(("declaration", decl))

    def handle_data(self, data: str) -> None:
        self.text += data


PLAIN = Read(render_sections(*filled("plain")))


HOSTILE = (
    "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "'-alert(1)-'", "</bdi></table><h1>", "<!--",
    "{{ 7 * 7 }}", "{% raw %}", "&lt;b&gt;", "javascript:alert(1)", "\u202egnp.exe", "a\x00\x1b[31m\r\ndata: x\n\n",
)  # fmt: skip


KNOWN = ("critical", "error", "warning", "info", "default")
"""Severities, levels and the route that have a style of their own."""


@given(st.text(min_size=1).filter(lambda text: text not in KNOWN) | st.sampled_from(HOSTILE))
def test_text_from_outside_is_never_markup(text: str) -> None:
    """Text of labels, servers and logs is shown whole, and cannot hide or reverse other text."""
    found = Read(render_sections(*filled(text)))
    assert found.elements == PLAIN.elements
    assert found.text.count(escape_unprintable(text)) >= PLAIN.text.count("plain")
    assert found.text.replace("\n", "").replace("\xa0", "").isprintable()


def test_names_break_only_between_words_and_before_labels() -> None:
    assert render.breakable('KubeDown{cluster="eu1",a="b"}') == (
        "Kube<wbr>Down<wbr>{cluster=&#34;eu1&#34;,<wbr>a=&#34;b&#34;}"
    )


def test_a_label_of_a_megabyte_is_cut() -> None:
    sections = render_sections(*filled("x" * 1_000_000))
    assert sum(map(len, sections.values())) < 30_000 and "x" * render.MAX_LENGTH + "…" in sections["forming"]


def test_before_any_answer_the_page_shows_no_numbers() -> None:
    shown = Read(render_sections(EMPTY, [])).text
    assert "No answer yet." in shown and "?" in shown and "None yet" not in shown and "No group is open" not in shown


def test_no_open_group_differs_from_no_worker() -> None:
    answered = replace(EMPTY, redis=Source("r", NOW), kafka=Source("k", NOW))
    assert "No worker has started yet." in render_sections(answered, [])["forming"]
    idle = replace(answered, version=1, groups=TopGroups(0, 0, ()))
    assert "No group is open" in render_sections(idle, [])["forming"]
    assert "None yet." in render_sections(answered, [])["recent"]


def test_groups_that_are_not_shown_are_counted() -> None:
    view, _ = filled("A")
    assert view.groups
    shown = view.groups.groups
    assert "and 9 more" in render_sections(replace(view, groups=TopGroups(10, 10, shown)), [])["forming"]
    assert "the 4 oldest" in render_sections(replace(view, groups=TopGroups(10, 4, shown)), [])["forming"]


def test_records_of_open_transactions_are_shown_apart_from_lag() -> None:
    view = replace(EMPTY, stages={"intake": {0: Progress(3, NOW), 1: Progress(0, NOW, 12)}})
    shown = render_sections(view, [])["lag"]
    assert shown.count("in open transactions") == 1 and "0 <small>+12 in open transactions</small>" in shown


def test_warnings_are_shown_and_the_worker_is_ready() -> None:
    shown = render_sections(EMPTY, [], [Problem("alerts", "an open transaction", NOW / 1000, "end it")])
    assert "Warnings" in shown["problems"] and "Not ready" not in shown["problems"] + shown["summary"]
    assert "an open transaction" in shown["problems"] and "end it" in shown["problems"]
    assert "hidden" in render_sections(EMPTY, [])["problems"]


def test_of_many_partitions_those_with_the_largest_lag_are_shown() -> None:
    shown = render.partitions_behind({"fold": {n: Progress(n % 50, None) for n in range(200)}})
    assert len(shown) == render.MAX_PARTITIONS and all(number % 50 > 40 for number in shown)
    assert shown == sorted(shown)


@pytest.mark.parametrize(
    ("milliseconds", "shown"),
    [(0, "0.0 s"), (59_940, "59.9 s"), (61_000, "1 min 1 s"), (3_600_000, "1 h 0 min"), (90_000_000, "1 d 1 h")],
)
def test_a_duration_has_two_units(milliseconds: int, shown: str) -> None:
    assert render.span(milliseconds) == shown
