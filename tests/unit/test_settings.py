"""Settings come from the environment; errors have the variable's name and never a credential."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from redis.asyncio import ConnectionPool

from stormfold.redis.client import connect
from stormfold.settings import Settings, SettingsError, variable

SECRET = "hunter2"


@pytest.fixture(autouse=True)
def _home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)


def test_variables_set_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable is the field's name with the prefix; arguments win; an empty variable counts as absent."""
    monkeypatch.setenv("STORMFOLD_KAFKA_BOOTSTRAP_SERVERS", "a:9092, [::1]:9093")
    monkeypatch.setenv("STORMFOLD_MAX_POLL_RECORDS", "100")
    monkeypatch.setenv("STORMFOLD_CLOSE_LEASE", "30")
    monkeypatch.setenv("STORMFOLD_CONFIG", "")
    settings = Settings(close_lease=45.5)
    assert (settings.kafka_bootstrap_servers, settings.max_poll_records, settings.close_lease) == (
        "a:9092,[::1]:9093",
        100,
        45.5,
    )
    assert settings.config is None


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (
            "kafka_bootstrap_servers",
            "localhost",
            "STORMFOLD_KAFKA_BOOTSTRAP_SERVERS: expected host:port, found 'localhost'",
        ),
        (
            "kafka_bootstrap_servers",
            "a:9092,b:99999",
            "STORMFOLD_KAFKA_BOOTSTRAP_SERVERS: expected host:port, found 'b:99999'",
        ),
        (
            "kafka_bootstrap_servers",
            "kafka://a:9092",
            "STORMFOLD_KAFKA_BOOTSTRAP_SERVERS: expected host:port, found 'kafka://a:9092'",
        ),
        ("http_address", "a:1,b:2", "STORMFOLD_HTTP_ADDRESS: expected host:port, found 'a:1,b:2'"),
        ("sink", "s3", "STORMFOLD_SINK: expected kubernetes, directory:PATH or none, found 's3'"),
        ("sink", "directory:", "STORMFOLD_SINK: expected kubernetes, directory:PATH or none, found 'directory:'"),
        (
            "stages",
            "fold,emitt",
            "STORMFOLD_STAGES: expected some of intake,fold,close,correlate,emit, found 'fold,emitt'",
        ),
        (
            "stages",
            "fold,fold",
            "STORMFOLD_STAGES: expected some of intake,fold,close,correlate,emit, found 'fold,fold'",
        ),
        (
            "alerts_topic",
            "a b",
            "STORMFOLD_ALERTS_TOPIC: expected text that matches '^[A-Za-z0-9_-][A-Za-z0-9._-]{0,248}$'",
        ),
        ("max_poll_records", "0", "STORMFOLD_MAX_POLL_RECORDS: expected at least 1"),
        ("session_timeout", "15s", "STORMFOLD_SESSION_TIMEOUT: expected seconds, such as 15"),
        *(
            ("alertmanager", url, f"STORMFOLD_ALERTMANAGER: expected a host and a port that can exist, found '{url}'")
            for url in ("http://am:90933", "http://am..svc:9093", "http://[1.2.3]:9093")
        ),
        ("session_timeout", "0", "STORMFOLD_SESSION_TIMEOUT: expected more than 0"),
        ("session_timeout", "3601", "STORMFOLD_SESSION_TIMEOUT: expected at most 3600"),
        ("max_poll_records", "many", "STORMFOLD_MAX_POLL_RECORDS: expected a whole number"),
        ("log_level", "loud", "STORMFOLD_LOG_LEVEL: expected 'debug', 'info', 'warning' or 'error'"),
        ("kubeconfig", "/absent", "STORMFOLD_KUBECONFIG: expected a file, there is none at /absent"),
        ("close_lease", "10", "STORMFOLD_CLOSE_LEASE: expected more than STORMFOLD_DELIVERY_TIMEOUT (10 s)"),
        (
            "kafka_sasl_username",
            "me",
            "STORMFOLD_KAFKA_SECURITY_PROTOCOL: expected SASL_SSL or SASL_PLAINTEXT, to use the credentials",
        ),
        (
            "redis_ssl_cafile",
            __file__,
            "STORMFOLD_REDIS_URL: expected rediss://, to use the files for TLS",
        ),
        (
            "kafka_ssl_certfile",
            __file__,
            "STORMFOLD_KAFKA_SECURITY_PROTOCOL: expected SSL or SASL_SSL, to use the files for TLS",
        ),
        (
            "kafka_oauth_scope",
            "kafka",
            "STORMFOLD_KAFKA_SECURITY_PROTOCOL: expected SASL_SSL or SASL_PLAINTEXT, to use the credentials",
        ),
        (
            "alertmanager_token_file",
            __file__,
            "STORMFOLD_ALERTMANAGER: expected URLs of Alertmanager, to use its credentials and files",
        ),
        (
            "receive_ssl_keyfile",
            __file__,
            "STORMFOLD_RECEIVE_SSL_CERTFILE: expected the certificate that belongs to the key",
        ),
        (
            "external_url",
            "https://a.example.com,https://b.example.com",
            "STORMFOLD_EXTERNAL_URL: expected http://HOST:PORT or https://HOST, without credentials, query or fragment",
        ),
        (
            "alerts_topic",
            "storms",
            "STORMFOLD_ALERTS_TOPIC and STORMFOLD_STORMS_TOPIC: expected two topics, found 'storms' twice",
        ),
        (
            "storms_dlq_topic",
            "alerts-dlq",
            "STORMFOLD_ALERTS_DLQ_TOPIC and STORMFOLD_STORMS_DLQ_TOPIC: expected two topics, found 'alerts-dlq' twice",
        ),
        (
            "redis_sentinel_password",
            SECRET,
            "STORMFOLD_REDIS_URL: expected redis+sentinel://, to use credentials of Sentinels",
        ),
        (
            "kafka_security_protocol",
            "SASL_SSL",
            "STORMFOLD_KAFKA_SASL_USERNAME and STORMFOLD_KAFKA_SASL_PASSWORD: expected both, for SASL",
        ),
    ],
)
def test_bad_values_are_refused(monkeypatch: pytest.MonkeyPatch, field: str, value: str, message: str) -> None:
    """One line with the variable and what was expected, from the environment as from an argument."""
    monkeypatch.setenv(variable(field), value)
    for given in ({}, {field: value}):
        with pytest.raises(SettingsError) as caught:
            Settings(**given)
        assert str(caught.value) == message


@pytest.mark.parametrize(
    ("server", "given"),
    [
        ("alertmanager", {"alertmanager": "https://alertmanager"}),
        ("kafka", {"kafka_security_protocol": "SSL"}),
        ("redis", {"redis_url": "rediss://redis"}),
    ],
)
def test_a_key_needs_its_certificate(server: str, given: dict[str, Any]) -> None:
    """With the key alone, a client would show no certificate. One file may contain both."""
    keyfile, certfile = f"{server}_ssl_keyfile", f"{server}_ssl_certfile"
    with pytest.raises(
        SettingsError, match=f"^{variable(certfile)}: expected the certificate that belongs to the key$"
    ):
        Settings(**given, **{keyfile: __file__})
    Settings(**given, **{keyfile: __file__, certfile: __file__})
    Settings(**given, **{certfile: __file__})


@pytest.mark.parametrize(
    "url",
    [
        "redis://h",
        "redis://h:6379/1",
        f"rediss://me:{SECRET}@h:6379",
        "redis://[::1]:6379/0",
        f"redis://h/0?password={SECRET}",
        "unix:///run/redis.sock",
        f"unix://:{SECRET}@/run/redis.sock?db=1",
        f"redis+sentinel://me:{SECRET}@a:26379,[::1],c/main?db=2",
        f"rediss+cluster://:{SECRET}@a:6379,b?socket_timeout=1",
    ],
)
def test_redis_is_shown_without_credentials(url: str) -> None:
    """Neither the settings nor the URL to show contain what the URL has of credentials."""
    settings = Settings(redis_url=url)
    assert SECRET not in settings.redis_url_safe + repr(settings) + str(settings)
    assert settings.redis_url == url


@pytest.mark.parametrize(
    "url",
    [
        "h:6379",
        f"http://me:{SECRET}@h",
        f"redis://me:{SECRET}",
        "redis://",
        f"redis://:{SECRET}@h:x",
        "redis://h/a",
        f"redis://:{SECRET}@h:99999",
        f"redis://:{SECRET}@h:0",
        f"redis://:123#{SECRET}@h/0",
        f"redis://:123/{SECRET}@h/0",
        f"redis://me:123/{SECRET}@h/0",
        f"redis://:123?{SECRET}@h/0",
        f"redis://:1@{SECRET}@h/0",
        f"redis://:1[{SECRET}@h/0",
        f"redis://:1\N{ACCOUNT OF}{SECRET}@h/0",
        f"redis://h/0?password=1#{SECRET}",
        f"unix://:1/{SECRET}@/run/redis.sock",
        f"unix:///:{SECRET}@/run/redis.sock",
        "redis://[:::::]",
        "redis://a,b",
        f"redis+sentinel://:{SECRET}@a,b",
        f"redis+sentinel://:{SECRET}@a,b/main/0",
        f"redis+sentinel://:{SECRET}@a:0/main",
        f"redis+cluster://:{SECRET}@a,b/1",
        f"redis+cluster://:1/{SECRET}@a,b",
    ],
)
def test_a_bad_redis_url_is_not_repeated(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """The message has the expected value, not the given one, which may hold a password."""
    monkeypatch.setenv("STORMFOLD_REDIS_URL", url)
    with pytest.raises(SettingsError) as caught:
        Settings()
    assert str(caught.value) == (
        "STORMFOLD_REDIS_URL: expected redis://HOST:PORT/DB, rediss:// for TLS,"
        " redis+sentinel://HOST:PORT,HOST:PORT/SERVICE, redis+cluster://HOST:PORT,HOST:PORT, or unix:///PATH;"
        " in a user name or password write / as %2F, ? as %3F, # as %23, @ as %40"
    )


@pytest.mark.parametrize(
    ("url", "why"),
    [
        (f"redis://me?{SECRET}@h/0", "expected only these options after ?: client_name, db, "),
        (f"redis://h?{SECRET}={SECRET}", "expected only these options after ?: client_name, db, "),
        ("redis://h?decode_responses=yes", "expected only these options after ?: client_name, db, "),
        ("redis://h?ssl_cert_reqs=none", "expected only these options after ?: client_name, db, "),
        ("unix:///s?socket_keepalive=yes", "expected only these options after ?: client_name, db, "),
        ("redis://h?socket_timeout=abc", "expected another value for the option socket_timeout"),
        ("redis://h?socket_timeout=0", "expected another value for the option socket_timeout"),
        ("redis://h?socket_timeout=nan", "expected another value for the option socket_timeout"),
        ("redis://h?db=", "expected another value for the option db"),
        ("redis+cluster://h?db=1", "expected another value for the option db"),
        (f"rediss://:{SECRET}@h?ssl_cert_reqs=none", "expected only these options after ?: client_name, db, "),
    ],
)
def test_bad_options_of_a_redis_url(monkeypatch: pytest.MonkeyPatch, url: str, why: str) -> None:
    """One line that names the option only where it is one: anything else may be a piece of a password."""
    monkeypatch.setenv("STORMFOLD_REDIS_URL", url)
    with pytest.raises(SettingsError) as caught:
        Settings()
    assert str(caught.value).startswith(f"STORMFOLD_REDIS_URL: {why}")
    assert SECRET not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["redis://h", "rediss://h", "unix:///s"])
@pytest.mark.parametrize(
    "option",
    [
        "client_name=me", "db=3", "health_check_interval=5", "max_connections=9", "password=a%2Fb", "protocol=3",
        "socket_connect_timeout=1.5", "socket_timeout=2", "username=me", "socket_keepalive=yes", "no_option=1",
    ],
)  # fmt: skip
async def test_the_client_takes_what_is_taken(scheme: str, option: str) -> None:
    """Whatever passes here makes a connection of the client, and what the client does not know does not pass."""
    url = f"{scheme}?{option}"
    try:
        ConnectionPool.from_url(url).make_connection()  # type: ignore[no-untyped-call]
    except (TypeError, ValueError):
        with pytest.raises(SettingsError):
            Settings(redis_url=url)
    else:
        assert Settings(redis_url=url).redis_url == url


async def test_escaped_credentials_arrive() -> None:
    """A password of separators, written as the message describes, is what the client logs in with."""
    settings = Settings(redis_url="redis://m%40e:1%2F2%3F3%234%405@h:6380/2")
    given = connect(settings).connection_pool.connection_kwargs
    assert (given["username"], given["password"], given["host"], given["port"]) == ("m@e", "1/2?3#4@5", "h", 6380)
    assert settings.redis_url_safe == "redis://h:6380/2"


def test_passwords_are_not_printed() -> None:
    """A password is there for those who ask for it by name, and in no other form."""
    settings = Settings(
        kafka_security_protocol="SASL_SSL",
        kafka_sasl_username="me",
        kafka_sasl_password=SECRET,
        redis_password=SECRET,
    )
    assert SECRET not in f"{settings} {settings!r} {settings.model_dump_json()}"
    assert settings.redis_password and settings.redis_password.get_secret_value() == SECRET


CREDENTIALS = ("kafka_sasl_username", "kafka_sasl_password", "redis_username", "redis_password")


def _credentials(settings: Settings) -> list[str]:
    values = [getattr(settings, name) for name in CREDENTIALS]
    return [value.get_secret_value() if isinstance(value, SecretStr) else value for value in values]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (SECRET, SECRET),
        (f"{SECRET}\n", SECRET),
        (f"{SECRET}\r\n", SECRET),
        (f" {SECRET} \n", f" {SECRET} "),
        (f"{SECRET}\n\n", f"{SECRET}\n"),
    ],
)
def test_a_credential_from_a_file(monkeypatch: pytest.MonkeyPatch, given: str, kept: str) -> None:
    """A file ends in a newline, and so does what a Secret has of it: one is taken off, and nothing else."""
    monkeypatch.setenv("STORMFOLD_KAFKA_SECURITY_PROTOCOL", "SASL_SSL")
    for name in CREDENTIALS:
        monkeypatch.setenv(variable(name), given)
    settings = Settings()
    assert _credentials(settings) == [kept] * 4
    assert settings.secrets == [kept] * 2


@pytest.mark.parametrize("field", CREDENTIALS)
def test_a_credential_from_an_empty_file(monkeypatch: pytest.MonkeyPatch, field: str) -> None:
    """A line with nothing in it is refused by name, rather than sent to a server as a password."""
    monkeypatch.setenv(variable(field), "\n")
    with pytest.raises(SettingsError) as caught:
        Settings()
    assert str(caught.value) == f"{variable(field)}: expected text, found an empty line"


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("STORMFOLD_ALERT_TOPIC", "STORMFOLD_ALERTS_TOPIC"),
        ("STORMFOLD_KAFKA", "STORMFOLD_KAFKA_BOOTSTRAP_SERVERS"),
        ("STORMFOLD_KAFKA_BROKERS", "STORMFOLD_KAFKA_BOOTSTRAP_SERVERS"),
        ("STORMFOLD_SESION_TIMEOUT", "STORMFOLD_SESSION_TIMEOUT"),
    ],
)
def test_a_misspelt_variable_is_refused_with_the_closest_known_one(
    monkeypatch: pytest.MonkeyPatch, name: str, known: str
) -> None:
    monkeypatch.setenv(name, "x")
    with pytest.raises(SettingsError) as caught:
        Settings()
    assert str(caught.value) == f"{name}: unknown environment variable, the closest known one is {known}"


def test_a_variable_like_no_other_is_refused_with_the_page_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORMFOLD_DEAD_TOPIC", "x")
    with pytest.raises(SettingsError) as caught:
        Settings()
    assert str(caught.value) == "STORMFOLD_DEAD_TOPIC: unknown environment variable"
    assert caught.value.hint and "docs/reference/settings.md" in caught.value.hint


def test_variables_of_kubernetes_services_are_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Service named stormfold, or stormfold-web, puts such variables into every pod of its namespace."""
    for service in ("STORMFOLD", "STORMFOLD_WEB"):
        monkeypatch.setenv(f"{service}_SERVICE_HOST", "10.0.0.1")
        monkeypatch.setenv(f"{service}_SERVICE_PORT", "8080")
        monkeypatch.setenv(f"{service}_SERVICE_PORT_METRICS", "8080")
        monkeypatch.setenv(f"{service}_PORT", "tcp://10.0.0.1:8080")
        monkeypatch.setenv(f"{service}_PORT_8080_TCP", "tcp://10.0.0.1:8080")
        monkeypatch.setenv(f"{service}_PORT_8080_TCP_PROTO", "tcp")
        monkeypatch.setenv(f"{service}_PORT_8080_TCP_PORT", "8080")
        monkeypatch.setenv(f"{service}_PORT_8080_TCP_ADDR", "10.0.0.1")
    assert Settings() == Settings()
    monkeypatch.setenv("STORMFOLD_HTTP_PORT", "8080")
    with pytest.raises(SettingsError, match=r"STORMFOLD_HTTP_PORT: unknown .* STORMFOLD_HTTP_ADDRESS$"):
        Settings()


def test_derived_names() -> None:
    """Consumer groups, the listening address and the stages in the pipeline's order."""
    settings = Settings(group_prefix="blue", http_address="[::]:80", stages="emit,intake")
    assert settings.consumer_group("fold") == "blue-fold"
    assert settings.http_bind == ("::", 80)
    assert settings.stage_names == ("intake", "emit")


def test_data_lies_where_the_user_keeps_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Below the home directory, or in `XDG_DATA_HOME`."""
    assert Settings().data_dir == Path("/home/someone/.local/share/stormfold")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert Settings().data_dir == Path("/data/stormfold")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {},
            "STORMFOLD_KAFKA_OAUTH_CLIENT_SECRET: expected all three",
        ),
        ({"kafka_sasl_mechanism": "AWS_MSK_IAM"}, "STORMFOLD_KAFKA_AWS_REGION: expected the region"),
        ({"kafka_sasl_mechanism": "PLAIN", "kafka_oauth_client_id": "me"}, "_SASL_MECHANISM: expected OAUTHBEARER"),
        ({"kafka_sasl_mechanism": "PLAIN", "kafka_oauth_scope": "kafka"}, "_SASL_MECHANISM: expected OAUTHBEARER"),
        ({"kafka_security_protocol": "SSL", "kafka_oauth_client_id": "me"}, "_SECURITY_PROTOCOL: expected SASL_SSL"),
        ({"kafka_oauth_token_url": "login.example.com"}, "_KAFKA_OAUTH_TOKEN_URL: expected text that matches"),
    ],
)
def test_tokens_need_their_own_credentials(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], message: str
) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SettingsError, match=message):
        Settings(**{"kafka_security_protocol": "SASL_SSL", "kafka_sasl_mechanism": "OAUTHBEARER"} | given)


def test_the_region_of_msk_is_by_default_that_of_the_tools_of_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    settings = Settings(kafka_security_protocol="SASL_SSL", kafka_sasl_mechanism="AWS_MSK_IAM")
    assert settings.aws_region == "eu-west-1"
