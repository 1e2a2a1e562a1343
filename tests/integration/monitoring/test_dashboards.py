"""The dashboards, on a real Prometheus that has scraped a real worker."""

import asyncio
import json
import math
import re
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
import yaml
from prometheus_client import CollectorRegistry, Gauge, start_http_server

from stormfold.local.process import HOST, free_port
from stormfold.settings import Settings
from stormfold.status.snapshot import STAGES, topic_of
from tests.integration.deploy.conftest import services as services
from tests.integration.deploy.conftest import tools as tools
from tests.integration.deploy.files import K8S, ROOT
from tests.integration.kubernetes.conftest import built as built
from tests.integration.monitoring.dashboards import FOLDER, files
from tests.integration.monitoring.dashboards.lag import SINCE, UNTIL
from tests.integration.monitoring.dashboards.parts import NEVER, of_namespace
from tests.integration.monitoring.rules import JOB, REDIS_JOB, RULES
from tests.integration.monitoring.test_rules import ALERTS, FOREIGN
from tests.integration.web.metrics_page import names
from tests.support import gobuild
from tests.support.alerts import Sent, alert, record
from tests.support.exporter import exporter_lag
from tests.support.grafana import DashboardsFile, DatasourcesFile, mistakes
from tests.support.pipeline import assert_balanced, drained, publish
from tests.support.prometheus import Prometheus, Sample, programs, promtool
from tests.support.servers import until
from tests.support.workers import Workers

ALL = {"$namespace": ".*", "$__rate_interval": "1m", "$__range": "1h"}
"""The values of the variables of Grafana; the default of the namespace is All."""
CONFIG = """
windows: {gap: 2s, grace: 1s, slice: 60s}
silences: [{name: tests, match: alertname="Test"}]
"""


class PanelQuery(NamedTuple):
    """A query of a panel."""

    panel: str
    expression: str
    """The expression for Prometheus."""
    labels: frozenset[str]
    """Labels in the legend."""


def pages() -> dict[str, Any]:
    """The dashboards as they are committed."""
    return {path.name: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}


def panels(page: Any) -> Iterator[Any]:
    """Panels with data."""
    yield from (panel for panel in page["panels"] if panel["type"] not in ("row", "text"))


def expanded(expression: str) -> str:
    """The expression with all variables replaced."""
    for name, value in ALL.items():
        expression = expression.replace(name, value)
    assert "$" not in expression, expression
    return expression


def panel_queries() -> list[PanelQuery]:
    """Every query of every dashboard."""
    return [
        PanelQuery(
            f"{name}: {panel['title']}",
            expanded(target["expr"]),
            frozenset(re.findall(r"\{\{(\w+)\}\}", target.get("legendFormat", ""))),
        )
        for name, page in pages().items()
        for panel in panels(page)
        for target in panel["targets"]
    ]


def of_panel(title: str) -> str:
    """The one query of a panel."""
    (found,) = (query.expression for query in panel_queries() if query.panel == title)
    return found


@pytest.fixture(scope="module", autouse=True)
def prometheus_built(request: pytest.FixtureRequest) -> None:
    """Builds Prometheus where it is not cached."""
    gobuild.built(request.config, programs)


def test_the_committed_dashboards_match_the_code() -> None:
    """Otherwise run `python -m tests.integration.monitoring.dashboards`."""
    assert {path: path.read_text() for path in FOLDER.glob("*.json")} == files()


def test_grafana_accepts_every_option_of_the_dashboards(pytestconfig: pytest.Config, tmp_path: Path) -> None:
    """The schema is that of the Grafana in the compose file; a misspelt option fails."""
    version = re.search(r"^GRAFANA_TAG=(.*)$", (ROOT / ".env").read_text(), re.MULTILINE)
    assert version
    found = {Path(name).stem: page for name, page in pages().items()}
    figure = next(panels(found["lag"]))
    wrong = found["lag"] | {"panels": [figure | {"options": figure["options"] | {"graphMood": "none"}}]}
    errors = gobuild.built(pytestconfig, lambda: mistakes(version[1], found | {"wrong": wrong}, tmp_path))
    assert [line.partition("(")[0] for line in errors.splitlines()] == ["wrong.ts"], errors
    assert "graphMood" in errors


def test_every_exported_metric_is_on_a_dashboard_and_every_query_asks_for_one() -> None:
    own = {re.sub(r"_(bucket|count|sum)$", "", name) for name in names()}
    found = {
        re.sub(r"_(bucket|count|sum)$", "", name)
        for query in panel_queries()
        for name in re.findall(r"\b(?:stormfold_\w+|kafka_\w+|redis_\w+|up)\b(?!\s*\()", query.expression)
    }
    assert found <= own | FOREIGN
    assert own <= found


def test_every_panel_has_a_description_a_unit_and_legends() -> None:
    """No two panels overlap."""
    for page in pages().values():
        ids = [panel["id"] for panel in page["panels"]]
        assert len(set(ids)) == len(ids)
        cells: set[tuple[int, int]] = set()
        for panel in page["panels"]:
            at = panel["gridPos"]
            mine = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
            assert not mine & cells and all(x < 24 for x, _ in mine), panel["title"]
            cells |= mine
        for panel in panels(page):
            assert panel["description"].endswith(".") and panel["fieldConfig"]["defaults"]["unit"], panel["title"]
            if panel["type"] == "timeseries":
                assert all(target["legendFormat"] for target in panel["targets"]), panel["title"]


def test_every_alert_is_on_one_dashboard_with_its_runbook() -> None:
    """The panels that show its cause link to it."""
    shown: list[str] = []
    for page in pages().values():
        texts = {panel["title"]: panel for panel in page["panels"] if panel["type"] == "text"}
        links = {link["title"]: link["url"] for panel in panels(page) for link in panel.get("links", ())}
        assert links == {
            f"Runbook: {alert}": f"/d/{page['uid']}?viewPanel=panel-{panel['id']}" for alert, panel in texts.items()
        }
        assert all(panel["options"]["content"].startswith("**Means.**") for panel in texts.values())
        shown += texts
    assert sorted(shown) == sorted(ALERTS)


def test_grafana_of_the_compose_file_finds_prometheus_and_the_dashboards(services: dict[str, Any]) -> None:
    grafana = services["grafana"]
    mounts = {mount["target"]: ROOT / mount["source"] for mount in grafana["volumes"]}
    provisioning = mounts["/etc/grafana/provisioning"]
    file = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())
    (datasource,) = msgspec.convert(file, DatasourcesFile).datasources
    assert datasource.type == "prometheus" and datasource.isDefault
    assert datasource.url == f"http://prometheus:{services['prometheus']['ports'][0]['target']}"
    scraped = yaml.safe_load((K8S / "monitoring" / "prometheus.yml").read_text())["global"]["scrape_interval"]
    assert datasource.jsonData.timeInterval == scraped
    file = yaml.safe_load((provisioning / "dashboards" / "stormfold.yaml").read_text())
    (provider,) = msgspec.convert(file, DashboardsFile).providers
    assert mounts[provider.options.path] == FOLDER
    home = Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert (mounts[str(home.parent)] / home.name).exists()


def test_an_unknown_key_of_the_provisioning_is_found() -> None:
    """Grafana itself ignores unknown keys silently."""
    source = {
        "name": "p",
        "type": "prometheus",
        "access": "proxy",
        "url": "http://p",
        "jsonData": {"httpMethod": "POST"},
    }
    provider = {"name": "p", "type": "file", "options": {"path": "/d"}}
    msgspec.convert({"apiVersion": 1, "datasources": [source]}, DatasourcesFile)
    msgspec.convert({"apiVersion": 1, "providers": [provider]}, DashboardsFile)
    for wrong in (source | {"default": True}, source | {"jsonData": {"interval": "15s"}}, source | {"access": "prxy"}):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({"apiVersion": 1, "datasources": [wrong]}, DatasourcesFile)
    for wrong in (
        provider | {"editable": False},
        provider | {"options": {"paths": "/d"}},
        provider | {"type": "files"},
    ):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({"apiVersion": 1, "providers": [wrong]}, DashboardsFile)


@pytest.fixture
async def watched(topics: Settings, tmp_path: Path) -> AsyncIterator[Prometheus]:
    """A Prometheus that has scraped a worker before and after a storm, late alerts and invalid records."""
    topics = topics.model_copy(update={"group_prefix": f"stormfold-{topics.group_prefix}"})
    config = tmp_path / "stormfold.yaml"
    config.write_text(CONFIG)
    worker, exporter = free_port(), free_port()
    lag = _exporter(exporter)
    prometheus = Prometheus(
        tmp_path / "prometheus", {JOB: [f"{HOST}:{worker}"], "kafka": [f"{HOST}:{exporter}"]}, [RULES]
    )
    await asyncio.to_thread(prometheus.start)
    try:
        with Workers(topics, tmp_path, config) as workers:
            workers.start(http_address=f"{HOST}:{worker}", sink=f"directory:{tmp_path / 'storms'}")
            await until(lambda: prometheus.value("stormfold_ready == 1"), what="it is scraped")
            await _tell(topics)
            assert_balanced(await drained(topics, config))
            for done in (
                'stormfold_resources_written_total{kind="AlertStorm", outcome="created"} == 1',
                "sum(stormfold_alerts_closed_total) == 36",
            ):
                await until(partial(prometheus.value, done), what=done)
            read = {stage: topic_of(topics, stage) for stage in STAGES}
            lags = await exporter_lag(topics)
            for (stage, partition), records in lags.items():
                lag.labels(topics.consumer_group(stage), read[stage], partition).set(records)
            scraped = f"count(kafka_consumergroup_lag) == {len(lags)}"
            await until(partial(prometheus.value, scraped), what="the lag is scraped")
            yield prometheus
    finally:
        await asyncio.to_thread(prometheus.stop)


async def test_every_query_has_numbers_for_every_label_of_its_legend(watched: Prometheus) -> None:
    """The numbers are those of the alerts that were published."""
    await until(partial(_seen_idle, watched), what="it was idle at the moments that are looked at")
    # `stormfold receive` is a process of its own, with tests of its own.
    queries = [query for query in panel_queries() if "stormfold_receive" not in query.expression]
    answers = {query: await watched.query(query.expression) for query in queries}
    assert not [query.panel for query, samples in answers.items() if not samples]
    assert not [query.panel for query, samples in answers.items() if any(not _good(query, one) for one in samples)]
    # If two panels have one title, the figure comes first.
    shown = {query.panel: samples[0].value for query, samples in reversed(answers.items())}
    # Prometheus extrapolates an increase to the whole interval.
    for panel, count in {
        "storms.json: Storms closed": 1,
        "storms.json: Storms written": 1,
        "storms.json: Alerts read": 36,
        "storms.json: Late alerts": 1,
        "storms.json: Dead letters": 2,
    }.items():
        assert shown[panel] == pytest.approx(count, rel=0.3), panel
    assert shown["storms.json: Alerts per storm"] == pytest.approx(36)
    assert shown["storms.json: Duplicates dropped"] == shown["redis.json: Rejected"] == 0
    assert shown["lag.json: Workers ready"] == 1


def test_the_time_behind_and_the_time_to_catch_up_are_estimated(tmp_path: Path) -> None:
    """For a stage that is idle, idle but for records in flight, stuck, or catching up."""
    lag = {
        "idle": "0 1 0 2 0 0 1 0x110 1 0 2",
        "stuck": "0x39 500x120",
        "late": "0x39 6000x39 6000-30x80",
    }
    series = {f'stormfold_lag_records{{stage="{stage}", partition="0"}}': values for stage, values in lag.items()}
    since, until_ = {"idle": 0, "stuck": 1170, "late": 1170}, {"idle": 0, "stuck": 5e8, "late": 2400}
    expected = {
        expanded(of_namespace(f"round({expression.format('stage')}, 10)")): {
            f'{{stage="{stage}"}}': value for stage, value in values.items()
        }
        for expression, values in ((SINCE, since), (UNTIL, until_))
    }
    _expect(series, expected, tmp_path)
    assert until_["stuck"] > NEVER > until_["late"]


def test_redis_panels_work_without_workers(tmp_path: Path) -> None:
    """They use the exporter of Redis, and no other Redis."""
    figures = {
        "memory_used_bytes": "0+1.5e6x120",
        "memory_max_bytes": "500e6x120",
        "mem_fragmentation_ratio": "1.4x120",
    }
    series = {
        f'redis_{name}{{instance="x", job="{job}"}}': values
        for name, values in {**figures, "evicted_keys_total": "3x120"}.items()
        for job in (REDIS_JOB, "redis")
    }
    series['redis_memory_used_bytes{instance="y", job="redis"}'] = "1e9x120"
    shows: dict[str, list[float]] = {
        "Used": [0.36], "Full in": [3200], "Evicted": [3], "Fragmentation": [1.4], "Memory": [180e6, 500e6],
    }  # fmt: skip
    expected = {}
    for panel, values in shows.items():
        # A figure and a graph with one title have the same query.
        expressions = dict.fromkeys(
            query.expression for query in panel_queries() if query.panel == f"redis.json: {panel}"
        )
        for expression, value in zip(expressions, values, strict=True):
            expected[f"round({expression}, 0.01)"] = {"{}": value}
    _expect(series, expected, tmp_path)


def test_partitions_without_commits_do_not_reduce_the_lag(tmp_path: Path) -> None:
    """The Kafka exporter reports -1 for them."""
    group = 'consumergroup="stormfold-emit"'
    lag = {"0": "-1x120", "1": "-1x120", "2": "0x120", "3": "4x120"}
    series = {
        f'kafka_consumergroup_lag{{{group}, topic="storms", partition="{partition}"}}': values
        for partition, values in lag.items()
    }
    expected = {
        of_panel("lag.json: Not yet committed"): {f'{{{group}, topic="storms"}}': 4},
        of_panel("lag.json: Not yet committed, by partition"): {
            f'{{{group}, partition="{partition}"}}': max(0, int(values.split("x")[0]))
            for partition, values in lag.items()
        },
    }
    _expect(series, expected, tmp_path)


def _expect(series: Mapping[str, str], expected: Mapping[str, Mapping[str, float]], folder: Path) -> None:
    """Asserts that after half an hour of these series (15 s) each expression has exactly these samples."""
    test = {
        "interval": "15s",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": expression,
                "eval_time": "30m",
                "exp_samples": [{"labels": labels, "value": value} for labels, value in samples.items()],
            }
            for expression, samples in expected.items()
        ],
    }
    file = folder / "test.yaml"
    file.write_text(yaml.safe_dump({"evaluation_interval": "15s", "tests": [test]}))
    found = promtool("test", "rules", file)
    assert found.returncode == 0, found.stdout


def _exporter(port: int) -> Gauge:
    """A substitute for the Kafka exporter, with its metric names."""
    registry = CollectorRegistry()
    start_http_server(port, HOST, registry)
    return Gauge("kafka_consumergroup_lag", "Lag", ["consumergroup", "topic", "partition"], registry=registry)


async def _tell(settings: Settings) -> None:
    def current() -> Iterator[Sent]:
        # When the producer is connected: later, all of them would be late.
        now = time.time_ns() // 1_000_000
        yield from (Sent(now, record(alert(pod=f"p-{n}")), n % 3) for n in range(30))
        yield Sent(now, record(alert("Alone")))
        yield from (Sent(now, record(alert("Test", pod=f"p-{n}"))) for n in range(4))
        yield Sent(now - 60_000, record(alert(pod="p-1")))
        yield Sent(now, b"?")
        yield Sent(now, b"{}")

    await publish(settings, current())


async def _seen_idle(prometheus: Prometheus) -> bool:
    """Whether the estimates, which sample a few moments, have data for every stage."""
    since = await prometheus.query(expanded(of_namespace(SINCE.format("stage"))))
    left = await prometheus.query(expanded(of_namespace(UNTIL.format("stage"))))
    return len(since) == len(left) == len(STAGES) and all(sample.value < 60 for sample in since)


def _good(query: PanelQuery, sample: Sample) -> bool:
    return math.isfinite(sample.value) and query.labels <= sample.labels.keys()
