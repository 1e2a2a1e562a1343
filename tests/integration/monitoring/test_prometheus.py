"""The Prometheus of the compose file: its command, its files, and a real worker that it scrapes."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from redis.asyncio import Redis

from stormfold.config import Config
from stormfold.local.process import HOST, free_port
from stormfold.settings import Settings
from stormfold.status.snapshot import STAGES
from tests.integration.deploy.conftest import services as services
from tests.integration.deploy.conftest import tools as tools
from tests.integration.deploy.files import K8S, ROOT
from tests.integration.kubernetes.conftest import built as built
from tests.integration.monitoring.rules import JOB, RULES
from tests.integration.monitoring.test_rules import ALERTS
from tests.integration.web.metrics_page import names
from tests.support import gobuild
from tests.support.alerts import Sent, alert, record
from tests.support.pipeline import assert_balanced, drained, publish
from tests.support.prometheus import VERSION, Prometheus, programs, promtool
from tests.support.servers import until
from tests.support.workers import Workers

CONFIG = K8S / "monitoring" / "prometheus.yml"
BEGIN = 1_780_000_000_000
FEW_GROUPS = """
windows: {gap: 15s, grace: 1s, slice: 60s}
limits: {max_groups: 10}
"""


class ComposePrometheus(Prometheus):
    """Prometheus with the command of the compose file."""

    options: Sequence[str] = ()

    def prepare(self) -> Sequence[str]:
        """The command with other folders and another port."""
        here = {"/etc/prometheus": str(CONFIG.parent), "/prometheus": str(self.data_dir / "data")}
        options = [self._here(option, here) for option in self.options]
        return [str(programs().prometheus), *options, f"--web.listen-address={self.address}"]

    @staticmethod
    def _here(option: str, here: dict[str, str]) -> str:
        name, _, value = option.partition("=")
        for theirs, ours in here.items():
            if value.startswith(theirs):
                value = ours + value.removeprefix(theirs)
                break
        return f"{name}={value}"


@pytest.fixture(scope="module", autouse=True)
def prometheus_built(request: pytest.FixtureRequest) -> None:
    """Builds Prometheus unless it is cached."""
    gobuild.built(request.config, programs)


async def test_prometheus_accepts_the_command_and_files_of_the_compose_file(
    services: dict[str, Any], tmp_path: Path
) -> None:
    service = services["prometheus"]
    assert service["image"] == f"prom/prometheus:v{VERSION}"
    check = promtool("check", "config", "--lint=all", "--lint-fatal", CONFIG)
    assert check.returncode == 0, check.stdout
    prometheus = ComposePrometheus(tmp_path, {})
    prometheus.options = service["command"]
    await asyncio.to_thread(prometheus.start)
    try:
        groups = (await prometheus.ask("rules"))["groups"]
        assert {rule["name"] for group in groups for rule in group["rules"]} == ALERTS.keys()
        (config,) = (await prometheus.ask("status/config")).values()
        assert yaml.safe_load(config)["scrape_configs"][0]["job_name"] == JOB
    finally:
        await asyncio.to_thread(prometheus.stop)


def test_the_files_of_prometheus_are_mounted_and_its_data_survive(services: dict[str, Any]) -> None:
    mounts = {mount["target"]: mount for mount in services["prometheus"]["volumes"]}
    options = dict(option.split("=") for option in services["prometheus"]["command"])
    config = mounts[options["--config.file"]]
    assert ROOT / config["source"] == CONFIG
    for name in yaml.safe_load(CONFIG.read_text())["rule_files"]:
        target = str(Path(config["target"]).with_name(name))
        assert ROOT / mounts[target]["source"] == CONFIG.with_name(name)
    assert mounts[options["--storage.tsdb.path"]]["type"] == "volume"


def test_every_scrape_target_is_a_service_with_that_port(services: dict[str, Any]) -> None:
    listens = {"kafka-exporter": 9308, "redis-exporter": 9121, "worker": 8080, "receive": 9095, "emit": 8080}
    found: dict[str, int] = {}
    for job in yaml.safe_load(CONFIG.read_text())["scrape_configs"]:
        for static in job.get("static_configs", []):
            found |= {host: int(port) for host, _, port in (target.partition(":") for target in static["targets"])}
        for dns in job.get("dns_sd_configs", []):
            found |= dict.fromkeys(dns["names"], dns["port"])
    assert found == listens
    assert found.keys() <= services.keys()
    assert Settings().http_bind[1] == listens["worker"]


@pytest.fixture
async def watched(topics: Settings, tmp_path: Path) -> AsyncIterator[Prometheus]:
    """Prometheus with the rules, scraping a worker that has folded something."""
    async with _watching(topics, tmp_path) as prometheus:
        yield prometheus


@asynccontextmanager
async def _watching(topics: Settings, tmp_path: Path, config: Path | None = None) -> AsyncIterator[Prometheus]:
    port = free_port()
    with Workers(topics, tmp_path, config) as workers:
        workers.start(http_address=f"{HOST}:{port}", sink=f"directory:{tmp_path / 'storms'}")
        await publish(topics, [Sent(BEGIN + n, record(alert(pod=f"p-{n}")), n % 3) for n in range(50)])
        assert_balanced(await drained(topics, config))
        prometheus = Prometheus(tmp_path / "prometheus", {JOB: [f"{HOST}:{port}"]}, [RULES])
        await asyncio.to_thread(prometheus.start)
        try:
            await until(lambda: prometheus.value("stormfold_ready == 1"), what="it is scraped")
            yield prometheus
        finally:
            await asyncio.to_thread(prometheus.stop)


async def test_a_healthy_worker_exports_every_metric_and_fires_no_alert(watched: Prometheus) -> None:
    """Except the metrics of problems. Labels have few values; the latency of a storm is measured by its own times."""
    await _everything_arrives(watched)
    await _delay_of_a_storm(watched)
    await _rules_find_nothing(watched)


async def _everything_arrives(watched: Prometheus) -> None:
    async def silent() -> bool:
        exported = {sample.labels["__name__"] for sample in await watched.query(f'{{job="{JOB}"}}')}
        return set(names()) - exported == {"stormfold_component_unhealthy", "stormfold_lost_records_total"}

    await until(silent, what="every metric arrives")
    own = {"match[]": f'{{job="{JOB}", __name__=~"stormfold_.*"}}'}
    labels = await watched.ask("labels", **own)
    values = {label: set(await watched.ask(f"label/{label}/values", **own)) for label in labels}
    others = ("__name__", "le", "version", "python", "topic", "component")
    few = {label: found for label, found in values.items() if label not in others}
    assert few == {
        "code": {"200"},
        "instance": few["instance"],
        "job": {JOB},
        "kind": {"AlertStorm", "AlertIncident"},
        "outcome": {"created", "exists", "dead_letter", "retry", "action_required"},
        "partition": {"0", "1", "2"},
        "stage": set(STAGES),
        "target_namespace": {"storms"},
        "storm_class": {"Storm", "Isolated", "Silenced"},
        "reason": {"first", "rebuild", "windows"},
    }
    assert len(values["topic"]) == 3


async def _delay_of_a_storm(watched: Prometheus) -> None:
    delay = "stormfold_storm_latency_seconds"
    await until(lambda: watched.value(f"{delay}_count == 1"), what="the storm is written")
    windows = Config().windows
    over = BEGIN + 49 + windows.gap + 1 + windows.grace
    took = await until(lambda: watched.value(f"{delay}_sum"), what="its latency is scraped")
    assert took == pytest.approx(time.time() - over / 1000, abs=60)


async def _rules_find_nothing(watched: Prometheus) -> None:
    async def evaluated() -> bool:
        rules = [rule for group in (await watched.ask("rules"))["groups"] for rule in group["rules"]]
        assert not [rule["lastError"] for rule in rules if rule.get("lastError")]
        return len(rules) == len(ALERTS) and all(rule["health"] == "ok" for rule in rules)

    await until(evaluated, what="every rule is evaluated")
    await until(lambda: watched.value("count_over_time(up[2s]) >= 4"), what="it is scraped some more times")

    async def quiet() -> bool:
        return not await watched.query("ALERTS")

    await until(quiet, what="no alert has begun")


async def test_a_full_redis_and_a_dead_letter_fire_their_alerts(watched: Prometheus, topics: Settings) -> None:

    async def begun() -> set[str]:
        return {sample.labels["alertname"] for sample in await watched.query("ALERTS")}

    # Once Redis is full, nothing is committed, and the storm of long ago would delay incidents.
    await until(lambda: watched.value("stormfold_closed_before_age_seconds < 600"), what="the storm's end is committed")
    async with Redis.from_url(topics.redis_url) as redis:
        await redis.config_set("maxmemory", "1")
        await publish(topics, [Sent(BEGIN, b"?")])
        full = {"StormfoldRedisMemoryHigh", "StormfoldRedisMemoryCritical", "StormfoldNotReady"}
        counted = {"StormfoldRedisOutOfMemory", "StormfoldDeadLetters"}

        found: set[str] = set()

        async def fired() -> bool:
            nonlocal found
            found = await begun()
            return found == full | counted

        # The comparison shows which alerts differ.
        with suppress(AssertionError):
            await until(fired, 60.0)
        assert found == full | counted
        await redis.config_set("maxmemory", "512mb")

        async def over() -> bool:
            return await begun() == counted

        await until(over, what="those that are over end")


async def test_too_many_groups_fire_their_alerts_and_every_alert_is_counted(topics: Settings, tmp_path: Path) -> None:
    config = tmp_path / "stormfold.yaml"
    config.write_text(FEW_GROUPS)
    async with _watching(topics, tmp_path, config) as prometheus:

        async def begun(*alerts: str) -> bool:
            return {sample.labels["alertname"] for sample in await prometheus.query("ALERTS")} == set(alerts)

        now = time.time_ns() // 1_000_000
        await publish(topics, [Sent(now, record(alert(f"A{n}"))) for n in range(13)])
        both = ("StormfoldGroupsNearLimit", "StormfoldGroupsOverflow")
        await until(lambda: begun(*both), what="the alerts fire")
        # The last one includes the overflow group.
        for expected in (
            "stormfold_max_groups == 10",
            "stormfold_alerts_overflowed_total == 3",
            "max_over_time(stormfold_open_groups[1m]) == 11",
        ):
            await until(partial(prometheus.value, expected), what=expected)
        await until(lambda: begun("StormfoldGroupsOverflow"), what="the one that is over ends")
        assert_balanced(await drained(topics, config))
