"""Kafka with tokens: of a token endpoint, and signed with AWS credentials."""

import base64
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from stormfold.errors import ActionRequired, Retry
from stormfold.kafka.client import open_admin
from stormfold.kafka.tokens import token_provider
from stormfold.kafka.topics import create, topics
from stormfold.local.process import HOST, free_port
from stormfold.local.redis import EmbeddedRedis
from stormfold.settings import Settings
from tests.integration.security.guarded import (
    ALERTS,
    SECONDS,
    changed,
    incident,
    ready,
    wait_until_unready,
)
from tests.integration.security.tokens import CLIENT, SECRET, TokenEndpoint, TokenKafka
from tests.support.cli import stormfold
from tests.support.pipeline import assert_balanced, drained
from tests.support.servers import PARTITIONS, fresh_settings, until
from tests.support.workers import Workers


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TokenKafka]:
    """The broker of these tests."""
    server = TokenKafka(tmp_path_factory.mktemp("tokens"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def endpoint() -> AsyncIterator[TokenEndpoint]:
    """A token endpoint that answers."""
    server = TokenEndpoint()
    async with server.serving():
        yield server


@pytest.fixture
def inside(broker: TokenKafka, redis_server: EmbeddedRedis) -> Settings:
    """Settings for the listener without authentication."""
    return changed(fresh_settings(broker, redis_server), http_address=f"{HOST}:{free_port()}", session_timeout=3.0)


def entered(settings: Settings, broker: TokenKafka, endpoint: TokenEndpoint, secret: str = SECRET) -> Settings:
    """The same settings, for the listener that takes tokens."""
    return changed(
        settings,
        kafka_bootstrap_servers=broker.guarded,
        kafka_security_protocol="SASL_PLAINTEXT",
        kafka_sasl_mechanism="OAUTHBEARER",
        kafka_oauth_token_url=endpoint.url,
        kafka_oauth_client_id=CLIENT,
        kafka_oauth_client_secret=secret,
    )


async def connect(settings: Settings) -> None:
    async with open_admin(settings) as admin:
        await admin.describe_topics()


async def test_a_worker_renews_its_token_and_outlives_an_endpoint_that_is_away(
    broker: TokenKafka, inside: Settings, config: Path, tmp_path: Path
) -> None:
    """The broker ends connections when their token expires; the next ones have a new token.

    Without an endpoint the worker reports it, and continues where it was.
    """
    endpoint = TokenEndpoint()
    endpoint.lifetime = 4
    settings = entered(inside, broker, endpoint)
    async with open_admin(inside) as admin:
        await create(admin, topics(inside, PARTITIONS, producer_timestamps=True))
    await incident(inside, 0)
    with Workers(settings, tmp_path, config) as workers:
        async with endpoint.serving():
            workers.start()
            assert (await drained(inside, config, SECONDS)).aggregated == ALERTS
            issued = endpoint.issued
            await until(lambda: endpoint.issued >= issued + 3, SECONDS, "tokens are renewed")
            await incident(inside, 1)
            assert (await drained(inside, config, SECONDS)).aggregated == 2 * ALERTS
        await wait_until_unready(settings, f"no token for Kafka: {endpoint.url}")
        await incident(inside, 2)
        async with endpoint.serving():
            assert_balanced(await drained(inside, config, SECONDS), aggregated=3 * ALERTS)
            await ready(settings)
    assert SECRET not in workers.logs()


async def test_one_token_serves_all_connections(broker: TokenKafka, inside: Settings, endpoint: TokenEndpoint) -> None:
    settings = entered(inside, broker, endpoint)
    for _ in range(3):
        await connect(settings)
    assert endpoint.issued == 1


async def test_an_endpoint_that_is_away_or_overloaded_is_retried(broker: TokenKafka, inside: Settings) -> None:
    """The message names it, and not the broker."""
    endpoint = TokenEndpoint()
    settings = entered(inside, broker, endpoint)
    with pytest.raises(Retry, match=f"no token for Kafka: {endpoint.url} .*cannot be reached") as away:
        await connect(settings)
    assert away.value.hint
    async with endpoint.serving():
        endpoint.status = 503
        with pytest.raises(Retry, match="fails: HTTP status 503"):
            await connect(settings)
        endpoint.status = 200
        await connect(settings)


async def test_a_wrong_secret_needs_action(broker: TokenKafka, inside: Settings, endpoint: TokenEndpoint) -> None:
    """Commands print the reason and the variables to check in two lines."""
    settings = entered(inside, broker, endpoint, "wrong")
    with pytest.raises(ActionRequired, match="refuses the client: invalid_client: wrong client or secret"):
        await connect(settings)
    answer = await stormfold(settings, "topics")
    assert answer.returncode == 1 and "STORMFOLD_KAFKA_OAUTH_CLIENT_ID, …_CLIENT_SECRET" in answer.stderr
    assert len(answer.stderr.splitlines()) == 2 and "wrong\n" not in answer.stderr


async def test_another_server_than_a_token_endpoint_needs_action(
    broker: TokenKafka, inside: Settings, endpoint: TokenEndpoint
) -> None:
    settings = changed(entered(inside, broker, endpoint), kafka_oauth_token_url=f"http://{endpoint.address}/elsewhere")
    with pytest.raises(ActionRequired, match="does not respond like a token endpoint") as raised:
        await connect(settings)
    assert raised.value.hint and "STORMFOLD_KAFKA_OAUTH_TOKEN_URL" in raised.value.hint


async def test_a_token_that_the_broker_refuses_needs_action(
    broker: TokenKafka, inside: Settings, endpoint: TokenEndpoint
) -> None:
    """It is not taken for a broken connection, and is not used again."""
    settings = entered(inside, broker, endpoint)
    endpoint.scope = "another"
    with pytest.raises(ActionRequired, match=f"rejects the token of {CLIENT}: .*insufficient_scope"):
        await connect(settings)
    endpoint.scope = "kafka"
    await connect(settings)


@pytest.fixture
def on_msk(inside: Settings, broker: TokenKafka, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Settings:
    """Settings for IAM, without any AWS credentials."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    return changed(
        inside,
        kafka_bootstrap_servers=broker.guarded,
        kafka_security_protocol="SASL_PLAINTEXT",
        kafka_sasl_mechanism="AWS_MSK_IAM",
        kafka_aws_region="eu-central-1",
    )


async def test_tokens_for_msk_are_signed_with_aws_credentials(
    on_msk: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are sent to the broker; this one is not MSK and refuses them."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI")
    token = await token_provider(on_msk).token()
    url = urlsplit(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode())
    signed = parse_qs(url.query)
    assert url.hostname == "kafka.eu-central-1.amazonaws.com" and signed["Action"] == ["kafka-cluster:Connect"]
    assert signed["X-Amz-Credential"][0].startswith("AKIDEXAMPLE/") and signed["X-Amz-Signature"]
    assert await token_provider(on_msk).token() == token
    with pytest.raises(ActionRequired, match="rejects the token"):
        await connect(on_msk)


async def test_missing_aws_credentials_need_action(on_msk: Settings) -> None:
    with pytest.raises(ActionRequired, match="no AWS credentials found") as raised:
        await connect(on_msk)
    assert raised.value.hint and "role" in raised.value.hint
