"""Kafka with TLS, passwords, client certificates and ACLs."""

import asyncio
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stormfold.errors import ActionRequired
from stormfold.kafka.client import open_admin
from stormfold.kafka.topics import create, topics
from stormfold.local.process import HOST, free_port
from stormfold.local.redis import EmbeddedRedis
from stormfold.settings import Settings
from stormfold.status.snapshot import STAGES
from tests.integration.security.broker import GuardedKafka, rules
from tests.integration.security.certificates import Authority, Files
from tests.integration.security.guarded import (
    ALERTS,
    PASSWORD,
    SECONDS,
    assert_one_line,
    changed,
    incident,
    problems,
    ready,
    wait_until_unready,
)
from tests.support.cli import stormfold
from tests.support.pipeline import assert_balanced, drained
from tests.support.servers import PARTITIONS, fresh_settings, until
from tests.support.workers import Workers

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "secure.md"
EVERYTHING = [("topic", "*", "all"), ("group", "*", "all")]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[GuardedKafka]:
    """A broker: `plain`, `scram` and `certified` may do everything; `stormfold` may only connect."""
    server = GuardedKafka(
        tmp_path_factory.mktemp("guarded") / "kafka", authority, {"plain": PASSWORD, "stormfold": PASSWORD}
    )
    server.start()
    server.set_password("scram", PASSWORD)
    for user in ("plain", "scram", "certified"):
        server.grant(rules(EVERYTHING, user))
    yield server
    server.stop()


@pytest.fixture
def inside(broker: GuardedKafka, redis_server: EmbeddedRedis) -> Settings:
    """Settings of the administrator."""
    found = fresh_settings(broker, redis_server)
    return found.model_copy(update={"http_address": f"{HOST}:{free_port()}", "session_timeout": 3.0})


def entered(settings: Settings, broker: GuardedKafka, listener: str, **more: Any) -> Settings:
    """The same settings, for another listener."""
    protocol = {"LOGIN": "SASL_SSL", "CLEAR": "SASL_PLAINTEXT"}.get(listener, "SSL")
    return changed(settings, kafka_bootstrap_servers=broker.at(listener), kafka_security_protocol=protocol, **more)


def login(mechanism: str, user: str, password: str = PASSWORD) -> dict[str, str]:
    """Settings for a user."""
    return {"kafka_sasl_mechanism": mechanism, "kafka_sasl_username": user, "kafka_sasl_password": password}


Way = Callable[[Authority], tuple[str, dict[str, Any]]]
WAYS: dict[str, Way] = {
    "TLS": lambda _: ("TLS", {}),
    "client certificate": lambda ours: ("MUTUAL", {"kafka_ssl_certfile": ours.issue("certified").both}),
    "PLAIN": lambda _: ("LOGIN", login("PLAIN", "plain")),
    "SCRAM": lambda _: ("LOGIN", login("SCRAM-SHA-512", "scram")),
    "PLAIN in the clear": lambda _: ("CLEAR", login("PLAIN", "plain")),
}


@pytest.mark.parametrize("way", WAYS)
async def test_storms_are_made_over_every_kind_of_connection(
    broker: GuardedKafka, authority: Authority, inside: Settings, config: Path, tmp_path: Path, way: str
) -> None:
    """Producers publish, a worker makes storms, and the audit finds nothing missing."""
    listener, more = WAYS[way](authority)
    files = {} if listener == "CLEAR" else {"kafka_ssl_cafile": authority.file}
    settings = entered(inside, broker, listener, **files, **more)
    async with open_admin(settings) as admin:
        await create(admin, topics(settings, PARTITIONS, producer_timestamps=True))
    await incident(settings, 0)
    with Workers(settings, tmp_path, config) as workers:
        workers.start()
        books = await drained(settings, config, SECONDS)
    assert_balanced(books, aggregated=ALERTS)
    assert PASSWORD not in workers.logs()


REFUSED: dict[str, tuple[Callable[[Authority, Authority], tuple[str, dict[str, Any]]], str]] = {
    "another authority": (lambda _, other: ("TLS", {"kafka_ssl_cafile": other.file}), "is not trusted"),
    "expired": (lambda *_: ("EXPIRED", {}), "certificate has expired"),
    "another host": (lambda *_: ("ELSEWHERE", {}), "IP address mismatch"),
    "no certificate": (lambda *_: ("MUTUAL", {}), "refuses the client's certificate, or requires one"),
    "own expired": (
        lambda ours, _: ("MUTUAL", {"kafka_ssl_certfile": ours.issue("certified", expired=True).both}),
        "refuses the client's certificate, or requires one",
    ),
    "own of another authority": (
        lambda _, other: ("MUTUAL", {"kafka_ssl_certfile": other.issue("certified").both}),
        "refuses the client's certificate, or requires one",
    ),
    "wrong password": (lambda *_: ("LOGIN", login("PLAIN", "plain", f"{PASSWORD}!")), "rejects the credentials"),
    "wrong password, SCRAM": (
        lambda *_: ("LOGIN", login("SCRAM-SHA-512", "scram", f"{PASSWORD}!")),
        "rejects the credentials",
    ),
    "unknown mechanism": (lambda *_: ("LOGIN", login("SCRAM-SHA-256", "scram")), "SASL mechanism SCRAM-SHA-256"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_a_refused_connection_states_reason_and_fix(
    broker: GuardedKafka, authority: Authority, stranger: Authority, inside: Settings, case: str
) -> None:
    """One line has the reason, another one the fix."""
    way, message = REFUSED[case]
    listener, more = way(authority, stranger)
    settings = entered(inside, broker, listener, **{"kafka_ssl_cafile": authority.file} | more)
    with pytest.raises(ActionRequired, match=message) as raised:
        async with open_admin(settings):
            pass
    assert_one_line(raised.value)
    assert raised.value.hint


async def test_a_command_with_a_wrong_password_prints_no_traceback(
    broker: GuardedKafka, authority: Authority, inside: Settings
) -> None:
    """It prints the reason and the fix."""
    wrong = login("PLAIN", "plain", f"{PASSWORD}!")
    ended = await stormfold(entered(inside, broker, "LOGIN", kafka_ssl_cafile=authority.file, **wrong), "topics")
    assert ended.returncode == 1
    assert "rejects the credentials" in ended.stderr and "STORMFOLD_KAFKA_SASL_PASSWORD" in ended.stderr
    assert len(ended.stderr.splitlines()) <= 3 and "Traceback" not in ended.stderr
    assert PASSWORD not in ended.stdout + ended.stderr


def granted(settings: Settings) -> list[tuple[str, str, str]]:
    """The page's table, for the topics and groups of these settings."""
    rows = re.findall(r"^\| (topic|group) \| `([\w-]+)` \| (\w+) \|", PAGE.read_text(), re.MULTILINE)
    names = {topic.name: mine.name for topic, mine in zip(topics(Settings()), topics(settings), strict=True)}
    names |= {Settings().consumer_group(stage): settings.consumer_group(stage) for stage in STAGES}
    return list(dict.fromkeys((resource, names[name], operation) for resource, name, operation in rows))


async def test_the_permissions_of_the_page_are_sufficient(
    broker: GuardedKafka, authority: Authority, inside: Settings, config: Path, tmp_path: Path
) -> None:
    """Without them the worker is not ready and reports what it must not do; with them it does all its work."""
    settings = entered(inside, broker, "LOGIN", kafka_ssl_cafile=authority.file, **login("PLAIN", "stormfold"))
    async with open_admin(inside) as admin:
        await create(admin, topics(inside, PARTITIONS, producer_timestamps=True))
    await incident(inside, 0)
    with Workers(settings, tmp_path, config) as workers:
        workers.start(sink=f"directory:{tmp_path / 'storms'}")

        async def refused() -> bool:
            found = await problems(settings) or ()
            return any("denies stormfold: cannot use topic" in one and "docs/how-to/secure.md" in one for one in found)

        await until(refused, SECONDS, "the worker reports what it must not do")
        broker.grant(rules(granted(settings), "stormfold"))
        books = await drained(inside, config, SECONDS)
        assert_balanced(books, aggregated=ALERTS)
        await until(lambda: len(list((tmp_path / "storms").glob("*.yaml"))) == 1, SECONDS, "the storm is written")
        await ready(settings)


async def test_topics_shows_the_rest_of_the_table_to_a_user_who_may_not_read_settings(
    broker: GuardedKafka, authority: Authority, inside: Settings
) -> None:
    """Describe is enough for the names and partitions; the settings need DescribeConfigs."""
    settings = entered(inside, broker, "LOGIN", kafka_ssl_cafile=authority.file, **login("PLAIN", "stormfold"))
    wanted = topics(inside, PARTITIONS)
    async with open_admin(inside) as admin:
        await create(admin, wanted)
    broker.grant(rules([("topic", topic.name, "describe") for topic in wanted], "stormfold"))
    shown = await stormfold(settings, "topics")
    assert shown.returncode == 1
    _, *rows = shown.stdout.splitlines()
    expected = [[topic.name, "unknown", str(topic.partitions)] for topic in wanted]
    assert [row.split()[:3] for row in rows] == expected
    assert f"settings not known: {wanted[0].name}, " in shown.stderr and "DescribeConfigs" in shown.stderr
    assert "Traceback" not in shown.stderr


async def test_a_worker_recovers_from_a_changed_password(
    broker: GuardedKafka, authority: Authority, inside: Settings, config: Path, tmp_path: Path
) -> None:
    """While it is refused it reports that; then it continues where it was."""
    settings = entered(inside, broker, "LOGIN", kafka_ssl_cafile=authority.file, **login("SCRAM-SHA-512", "changed"))
    broker.set_password("changed", PASSWORD)
    broker.grant(rules(EVERYTHING, "changed"))
    async with open_admin(inside) as admin:
        await create(admin, topics(inside, PARTITIONS, producer_timestamps=True))
    await incident(inside, 0)
    with Workers(settings, tmp_path, config) as workers:
        workers.start()
        assert (await drained(inside, config, SECONDS)).aggregated == ALERTS
        broker.set_password("changed", "another one")
        await wait_until_unready(settings, "rejects the credentials")
        await incident(inside, 1)
        broker.set_password("changed", PASSWORD)
        books = await drained(inside, config, SECONDS)
    assert_balanced(books, aggregated=2 * ALERTS)
    assert PASSWORD not in workers.logs()


@pytest.fixture
def movable(broker: GuardedKafka, authority: Authority) -> Iterator[GuardedKafka]:
    """The broker; in the end its files are as before."""
    yield broker
    broker.files.become(authority)
    broker.stop()
    broker.start()


async def test_renewed_certificates_are_used_without_a_restart(
    movable: GuardedKafka, authority: Authority, stranger: Authority, inside: Settings, config: Path, tmp_path: Path
) -> None:
    """A worker's certificate expires, then the broker changes to another authority.

    Each time the worker is not ready and reports why; once its files are renewed, it continues where it was.
    """
    mine = Files(authority, "certified")
    settings = entered(inside, movable, "MUTUAL", **mine.settings("kafka"))
    async with open_admin(inside) as admin:
        await create(admin, topics(inside, PARTITIONS, producer_timestamps=True))
    await incident(inside, 0)
    with Workers(settings, tmp_path, config) as workers:
        workers.start()
        assert (await drained(inside, config, SECONDS)).aggregated == ALERTS

        mine.become(authority, expired=True)
        await asyncio.to_thread(movable.restart)
        await wait_until_unready(settings, "refuses the client's certificate")
        await incident(inside, 1)
        mine.become(authority)
        await ready(settings)
        books = await drained(inside, config, SECONDS)
        assert_balanced(books, aggregated=2 * ALERTS)

        movable.files.become(stranger)
        await asyncio.to_thread(movable.restart)
        await wait_until_unready(settings, "its certificate is not trusted")
        await incident(inside, 2)
        mine.become(stranger)
        await ready(settings)
        books = await drained(inside, config, SECONDS)
    assert_balanced(books, aggregated=3 * ALERTS)
