"""Tokens for Kafka: when they are requested, and what an endpoint's response means."""

import asyncio

import pytest

from stormfold.errors import ActionRequired, Retry, StormfoldError
from stormfold.kafka.tokens import REFRESH_SHARE, ClientCredentials, TokenError, TokenProvider
from stormfold.settings import Settings


class Provider(TokenProvider):
    """Issues numbered tokens."""

    def __init__(self, lifetime: float, **settings: str) -> None:
        super().__init__(Settings(**settings))
        self.lifetime = lifetime
        self.fetched = 0
        self.error: StormfoldError | None = None

    async def fetch(self) -> tuple[str, float]:
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        self.fetched += 1
        return f"token {self.fetched}", self.lifetime


async def test_connections_share_a_token_and_the_request_for_it() -> None:
    provider = Provider(300)
    assert {*await asyncio.gather(*(provider.token() for _ in range(5))), await provider.token()} == {"token 1"}
    provider.forget()
    assert await provider.token() == "token 2"


async def test_a_connection_that_is_given_up_does_not_cancel_the_request_of_others() -> None:
    provider = Provider(300)
    first = asyncio.ensure_future(provider.token())
    second = asyncio.ensure_future(provider.token())
    await asyncio.sleep(0)
    first.cancel()
    assert await second == "token 1"


async def test_a_token_is_renewed_before_it_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("stormfold.kafka.tokens.time.monotonic", lambda: now)
    provider = Provider(100)
    await provider.token()
    now += 100 * REFRESH_SHARE - 1
    assert await provider.token() == "token 1"
    now += 1
    assert await provider.token() == "token 2"


async def test_a_valid_token_is_used_while_the_endpoint_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until it expires. If the client is refused, it is not used."""
    now = 1000.0
    monkeypatch.setattr("stormfold.kafka.tokens.time.monotonic", lambda: now)
    provider = Provider(100)
    await provider.token()
    now += 99
    provider.error = Retry("away")
    assert await provider.token() == "token 1"
    provider.error = ActionRequired("refused")
    with pytest.raises(TokenError):
        await provider.token()
    now += 1
    provider.error = Retry("away")
    with pytest.raises(TokenError) as raised:
        await provider.token()
    assert raised.value.__cause__ is provider.error and raised.value.retriable


@pytest.mark.parametrize(
    ("status", "body", "error", "message"),
    [
        (400, b'{"error": "invalid_scope"}', ActionRequired, "refuses the client: invalid_scope"),
        (401, b"", ActionRequired, "refuses the client: HTTP status 401"),
        (200, b"{}", ActionRequired, "does not respond like a token endpoint"),
        (200, b"<html>", ActionRequired, "does not respond like a token endpoint"),
        (404, b"not found", ActionRequired, "does not respond like a token endpoint"),
        (429, b"", Retry, "fails: HTTP status 429"),
        (502, b"<html>", Retry, "fails: HTTP status 502"),
    ],
)
def test_a_response_without_a_token_states_what_to_do(
    status: int, body: bytes, error: type[StormfoldError], message: str
) -> None:
    with pytest.raises(error, match=message):
        ClientCredentials._parse("https://login/token", status, body)


def test_the_lifetime_of_a_token_may_be_text() -> None:
    body = b'{"access_token": "abc", "expires_in": "300", "token_type": "Bearer"}'
    assert ClientCredentials._parse("https://login/token", 200, body) == ("abc", 300.0)
    assert ClientCredentials._parse("https://login/token", 200, b'{"access_token": "abc"}') == ("abc", 0.0)


def test_extensions_are_pairs() -> None:
    provider = Provider(
        1,
        kafka_security_protocol="SASL_SSL",
        kafka_sasl_mechanism="OAUTHBEARER",
        kafka_oauth_token_url="https://login/token",
        kafka_oauth_client_id="me",
        kafka_oauth_client_secret="secret",
        kafka_oauth_extensions="logicalCluster=lkc-1,identityPoolId=pool-2=x",
    )
    assert provider.extensions() == {"logicalCluster": "lkc-1", "identityPoolId": "pool-2=x"}
    assert Provider(1).extensions() == {}
