"""Tokens for SASL OAUTHBEARER, from a token endpoint or signed with AWS credentials for Amazon MSK."""

import asyncio
import base64
import time
from abc import abstractmethod
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote_plus

import aiohttp
import msgspec
import structlog
from aiokafka.abc import AbstractTokenProvider
from aiokafka.errors import KafkaConnectionError

from stormfold.decoding import Malformed, decode_untrusted
from stormfold.errors import ActionRequired, Retry, StormfoldError, unexpected
from stormfold.settings import Settings, variable
from stormfold.tls import ReloadingSSLContext, tls_error

log = structlog.get_logger(__name__)

RESPONSE_SECONDS = 3.0
"""Longest wait for a token endpoint. It is shorter than connecting to a broker may take, which includes it."""
REFRESH_SHARE = 0.8
"""Share of a token's lifetime after which a new connection gets a new one, as in Kafka's own clients."""


class TokenError(KafkaConnectionError):
    """A token could not be obtained. The cause is a `StormfoldError`, because aiokafka handles only its own errors."""


class Token(NamedTuple):
    """A token, and until when it is used (monotonic time, s)."""

    text: str
    refresh_at: float
    expires_at: float


class TokenProvider(AbstractTokenProvider):
    """Returns a token for each new connection. All connections of a process share it until it is refreshed."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._token: Token | None = None
        self._request: asyncio.Task[Token] | None = None

    @abstractmethod
    async def fetch(self) -> tuple[str, float]:
        """Gets a new token; returns it with its lifetime (s). Raises `Retry` or `ActionRequired`."""

    async def token(self) -> str:
        """Returns a valid token. Raises `TokenError`."""
        token, now = self._token, time.monotonic()
        if token is not None and now < token.refresh_at:
            return token.text
        if self._request is None or self._request.done() or self._request.get_loop() is not asyncio.get_running_loop():
            self._request = asyncio.ensure_future(self._refresh())
        try:
            # Shared, and not cancelled with one of the connections that wait for it.
            return (await asyncio.shield(self._request)).text
        except StormfoldError as error:
            if token is not None and now < token.expires_at and isinstance(error, Retry):
                log.warning("cannot refresh the token for Kafka", error=str(error))
                return token.text
            raise TokenError(str(error)) from error

    def forget(self) -> None:
        """Drops the token: a broker refused it."""
        self._token = None

    def extensions(self) -> dict[str, str]:
        """SASL extensions that are sent with the token."""
        pairs = (pair.partition("=") for pair in (self._settings.kafka_oauth_extensions or "").split(",") if pair)
        return {name.strip(): value.strip() for name, _, value in pairs}

    async def _refresh(self) -> Token:
        started = time.monotonic()
        text, lifetime = await self.fetch()
        self._token = Token(text, started + REFRESH_SHARE * lifetime, started + lifetime)
        return self._token


class _Response(msgspec.Struct):
    access_token: str = ""
    expires_in: float = 0.0
    """Lifetime (s); without it, each connection gets a token of its own."""
    error: str = ""
    error_description: str = ""


_decoder = msgspec.json.Decoder(_Response, strict=False)


class ClientCredentials(TokenProvider):
    """Tokens of a token endpoint by the grant `client_credentials` (RFC 6749, 4.4)."""

    async def fetch(self) -> tuple[str, float]:
        settings, url = self._settings, self._settings.kafka_oauth_token_url
        secret = settings.kafka_oauth_client_secret
        assert url and secret
        # The standard wants both encoded as in a form.
        login = ":".join(map(quote_plus, (settings.kafka_oauth_client_id or "", secret.get_secret_value())))
        headers = {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"}
        form = {"grant_type": "client_credentials"}
        if settings.kafka_oauth_scope:
            form["scope"] = settings.kafka_oauth_scope
        try:
            context = ReloadingSSLContext(settings.kafka_oauth_ssl_cafile, None, None)
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(RESPONSE_SECONDS), trust_env=True) as session,
                session.post(url, data=form, headers=headers, ssl=context) as response,
            ):
                return self._parse(url, response.status, await response.read())
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            tls = tls_error(error, url, variable("kafka_oauth"), variable("kafka_oauth_token_url"))
            reason = "no answer" if isinstance(error, TimeoutError) else getattr(error, "strerror", None) or error
            raise tls or Retry(
                f"no token for Kafka: {url} ({variable('kafka_oauth_token_url')}) cannot be reached: {reason}",
                "start it there, or correct the variable; workers wait for it and lose nothing",
            ) from error

    @staticmethod
    def _parse(url: str, status: int, body: bytes) -> tuple[str, float]:
        try:
            found = decode_untrusted(_decoder.decode, body)
        except Malformed:
            found = _Response()
        if status == 200 and found.access_token:
            return found.access_token, found.expires_in
        reason = ": ".join(filter(None, (found.error, found.error_description))) or f"HTTP status {status}"
        if status >= 500 or status in (408, 429):
            raise Retry(f"no token for Kafka: {url} fails: {reason}")
        if found.error or status in (401, 403):
            raise ActionRequired(
                f"no token for Kafka: {url} refuses the client: {reason}",
                f"check {variable('kafka_oauth_client_id')}, …_CLIENT_SECRET and …_SCOPE",
            )
        raise ActionRequired(
            f"no token for Kafka: {url} does not respond like a token endpoint (HTTP status {status})",
            f"correct {variable('kafka_oauth_token_url')}",
        )


class MskIam(TokenProvider):
    """Tokens that are signed with the IAM credentials that AWS' tools find: variables, profile, role of pod or host."""

    async def fetch(self) -> tuple[str, float]:
        try:
            from aws_msk_iam_sasl_signer import MSKAuthTokenProvider
            from botocore.exceptions import BotoCoreError
        except ImportError as error:
            raise ActionRequired(
                f"{error.name} is not installed, which signs tokens for Amazon MSK", "pip install 'stormfold[msk]'"
            ) from error
        hint = "check the AWS credentials: variables, profile, or the role of the pod or host"
        try:
            text, expires = await asyncio.to_thread(MSKAuthTokenProvider.generate_auth_token, self._settings.aws_region)
        except (AttributeError, ValueError) as error:
            # The signer does not handle that there are none.
            raise ActionRequired("no token for Kafka: no AWS credentials found", hint) from error
        except BotoCoreError as error:
            raise Retry(f"no token for Kafka: no AWS credentials: {error}", hint) from error
        except Exception as error:
            raise unexpected(error) from error
        return text, expires / 1000 - time.time()


@lru_cache
def token_provider(settings: Settings) -> TokenProvider:
    """Returns the provider for these settings, the same one at each call."""
    return MskIam(settings) if settings.kafka_sasl_mechanism == "AWS_MSK_IAM" else ClientCredentials(settings)
