"""Lists on pages are complete."""

import re

import yaml

from stormfold.settings import STAGES
from stormfold.sinks.kinds import INCIDENTS, STORMS
from stormfold.stages.kafka_probe import KafkaProbe
from stormfold.stages.redis_monitor import RedisMonitor
from tests.docs import ROOT

DOCS = ROOT / "docs"


def test_the_runbook_names_the_components_that_can_be_unhealthy() -> None:
    section = (DOCS / "operations" / "runbook.md").read_text().partition("\n## StormfoldNotReady\n")[2]
    named = re.findall(r"`([a-z-]+)`", section.partition("**Look.**")[0])
    emit = [f"{word}{end}" for word in ("emit", "retention") for end in ("", "-incidents")]
    assert {STORMS.component, INCIDENTS.component} <= set(emit)
    assert sorted(named) == sorted({*STAGES, KafkaProbe.name, RedisMonitor.name, *emit})


def test_the_page_on_scaling_has_a_row_for_each_stage() -> None:
    rows = re.findall(r"^\| (\w+) \| ", (DOCS / "how-to" / "scale-out.md").read_text(), re.MULTILINE)
    assert rows == ["stage", *STAGES]


def test_the_deploy_page_names_the_definitions_that_are_applied() -> None:
    kinds = [one["spec"]["names"]["kind"] for one in yaml.safe_load_all((ROOT / "k8s" / "crd.yaml").read_text())]
    (line,) = re.findall(
        r"^\* the definitions of (.*), and two roles", (DOCS / "how-to" / "deploy.md").read_text(), re.MULTILINE
    )
    assert re.findall(r"`(\w+)`", line) == sorted(kinds, reverse=True)


def test_the_quickstart_posts_no_file_that_it_does_not_create() -> None:
    """A name in capitals is for the reader to replace."""
    text = (DOCS / "quickstart.md").read_text()
    posted = re.findall(r"curl .*?@([\w.]+)", text)
    assert posted and all(name.isupper() or f"> {name}\n" in text for name in posted)
