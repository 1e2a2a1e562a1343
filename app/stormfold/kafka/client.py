"""What every Kafka client is built with, and what its errors mean to whoever runs it, in one line."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from functools import wraps
from typing import Any

from aiokafka import errors
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.conn import AIOKafkaConnection, CloseReason, collect_hosts, create_conn
from aiokafka.protocol.admin import ApiVersionRequest
from aiokafka.protocol.coordination import FindCoordinatorRequest
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.util import wait_for

from stormfold.errors import ActionRequired, Retry, StormfoldError
from stormfold.settings import Settings
from stormfold.tls import ReloadingSSLContext, tls_error

REQUEST_TIMEOUT_MS = 10_000
"""Longest that a broker may take to answer. One that is silent, because its machine is gone or stands still, is given
up when Kafka has given it up too (`broker.session.timeout.ms`, 9 s) and another leads and coordinates in its place; and
before a session of the workers ends, so that they keep their partitions."""
METADATA_MAX_AGE_MS = 5_000
"""How long it can stay unknown that another broker leads, or that a partition was added: below the default grace, or
what that one gets first would be late."""
CONNECT_SECONDS = 5.0
"""Longest that connecting to a broker may take, TLS and credentials included."""
PROMPT_SECONDS = 3.0
"""Longest that a broker may take to answer what it has at hand."""
_PROMPT = (ApiVersionRequest, MetadataRequest, FindCoordinatorRequest)
"""Not a heartbeat: it shares a connection with commits, which may wait for a silent follower, and is answered after."""

_CREDENTIALS = (errors.SaslAuthenticationFailed, errors.AuthenticationFailedError)
_MECHANISM = (
    errors.UnsupportedSaslMechanismError,
    errors.IllegalSaslStateError,
    errors.AuthenticationMethodNotSupported,
)
_ACCESS = {
    errors.TopicAuthorizationFailedError: "use topic",
    errors.GroupAuthorizationFailedError: "use consumer group",
    errors.TransactionalIdAuthorizationFailed: "use transactional id",
    errors.ClusterAuthorizationFailedError: "do this in the cluster:",
}


def _broken_is_told(write: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(write)
    def told(connection: AIOKafkaConnection, *args: Any, **kwargs: Any) -> Any:
        try:
            return write(connection, *args, **kwargs)
        except RuntimeError as error:
            connection.close(reason=CloseReason.CONNECTION_BROKEN)
            raise errors.KafkaConnectionError(str(error)) from error

    return told


# To write to a connection that broke a moment ago is a RuntimeError in uvloop; aiokafka expects what asyncio does, and
# the task that keeps a client's metadata up to date would die of it, in silence: the client would wait for ever.
for _write in ("send", "_send_sasl_token"):
    setattr(AIOKafkaConnection, _write, _broken_is_told(getattr(AIOKafkaConnection, _write)))


def _prompt(send: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(send)
    def sent(connection: AIOKafkaConnection, request: Any, *args: Any, **kwargs: Any) -> Any:
        answer = send(connection, request, *args, **kwargs)
        return wait_for(answer, PROMPT_SECONDS) if isinstance(request, _PROMPT) else answer

    return sent


def _soon(connect: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(connect)
    async def connected(connection: AIOKafkaConnection) -> Any:
        async with asyncio.timeout(CONNECT_SECONDS):
            return await connect(connection)

    return connected


# aiokafka has the same patience for every request, and asks one broker after the other, under a lock: what it takes to
# find out who leads and coordinates in place of a silent one would each take as long as the largest fetch may.
AIOKafkaConnection.send = _prompt(AIOKafkaConnection.send)
AIOKafkaConnection.connect = _soon(AIOKafkaConnection.connect)


def client_options(settings: Settings) -> dict[str, Any]:
    """Addresses, credentials and patience, as aiokafka's consumer, producer and admin client take them.

    Raises `ActionRequired` for a certificate or key that cannot be read.
    """
    options: dict[str, Any] = {
        "bootstrap_servers": settings.kafka_bootstrap_servers,
        "security_protocol": settings.kafka_security_protocol,
        "request_timeout_ms": REQUEST_TIMEOUT_MS,
        "metadata_max_age_ms": METADATA_MAX_AGE_MS,
    }
    if "SASL" in settings.kafka_security_protocol:
        password = settings.kafka_sasl_password
        options["sasl_mechanism"] = settings.kafka_sasl_mechanism
        options["sasl_plain_username"] = settings.kafka_sasl_username
        options["sasl_plain_password"] = password.get_secret_value() if password else None
    if "SSL" in settings.kafka_security_protocol:
        files = settings.kafka_ssl_cafile, settings.kafka_ssl_certfile, settings.kafka_ssl_keyfile
        try:
            options["ssl_context"] = ReloadingSSLContext(*files)
        except OSError as error:
            raise ActionRequired(
                f"cannot use the TLS files for Kafka: {error}", "check the STORMFOLD_KAFKA_SSL_… files"
            ) from error
    return options


@asynccontextmanager
async def open_admin(settings: Settings) -> AsyncIterator[AIOKafkaAdminClient]:
    """A started admin client. What Kafka refuses inside becomes `ActionRequired` or `Retry`."""
    admin = AIOKafkaAdminClient(**client_options(settings))
    try:
        await admin.start()
        yield admin
    except (errors.KafkaError, OSError) as error:
        raise await diagnose(error, settings) from error
    finally:
        await admin.close()


async def metadata(settings: Settings, topics: Iterable[str]) -> Any:
    """What the first broker that answers knows of these topics; none is created by asking.

    Raises what kept it from an answer: `ActionRequired` if that is so for any broker, else `Retry`.
    """
    options = client_options(settings) | {"request_timeout_ms": round(CONNECT_SECONDS * 1000)}
    del options["bootstrap_servers"], options["metadata_max_age_ms"]
    reasons: list[ActionRequired | Retry] = []
    for host, port, _ in collect_hosts(settings.kafka_bootstrap_servers):
        try:
            connection = await create_conn(host, port, **options)
            try:
                return await connection.send(MetadataRequest(list(topics), allow_auto_topic_creation=False))
            finally:
                connection.close()
        except (errors.KafkaError, OSError) as error:
            reasons.append(broker_error(error, settings))
    raise next((reason for reason in reasons if isinstance(reason, ActionRequired)), reasons[0])


async def diagnose(error: BaseException, settings: Settings) -> StormfoldError:
    """Like `broker_error`, but where aiokafka keeps the reason of a failed connection to itself, finds it out."""
    if isinstance(error, errors.KafkaConnectionError):
        try:
            await metadata(settings, ())
        except StormfoldError as reason:
            return reason
    return broker_error(error, settings)


def broker_error(error: BaseException, settings: Settings) -> ActionRequired | Retry:
    """Sorts what a Kafka client raised by what to do about it; the message is one line and has no credentials."""
    kafka, user = settings.kafka_bootstrap_servers, settings.kafka_sasl_username or "this client"
    if isinstance(error, errors.KafkaConnectionError) and isinstance(error.__cause__, OSError | EOFError):
        error = error.__cause__
    if handshake := tls_error(error, f"Kafka at {kafka}", "STORMFOLD_KAFKA", "STORMFOLD_KAFKA_BOOTSTRAP_SERVERS"):
        return handshake
    match error:
        case _ if isinstance(error, _CREDENTIALS):
            return ActionRequired(
                f"Kafka at {kafka} refuses the user name or password",
                "check STORMFOLD_KAFKA_SASL_USERNAME and STORMFOLD_KAFKA_SASL_PASSWORD",
            )
        case _ if isinstance(error, _MECHANISM):
            return ActionRequired(
                f"Kafka at {kafka} does not take the SASL mechanism {settings.kafka_sasl_mechanism}",
                "check STORMFOLD_KAFKA_SASL_MECHANISM and STORMFOLD_KAFKA_SECURITY_PROTOCOL",
            )
        case _ if isinstance(error, tuple(_ACCESS)):
            # The admin client makes a sentence of a group's name, which is its last word.
            what = _text(error).split()[-1] if isinstance(error, errors.GroupAuthorizationFailedError) else _text(error)
            return ActionRequired(
                f"Kafka at {kafka} does not let {user} {_ACCESS[type(error)]} {what}",
                "grant it by an ACL; docs/how-to/secure.md lists what each stage needs",
            )
        case errors.UnknownTopicOrPartitionError():
            return ActionRequired(
                f"a topic is missing in Kafka at {kafka}: {_text(error)}", "run `stormfold topics --create`"
            )
        case ConnectionResetError() | EOFError():
            return Retry(
                f"Kafka at {kafka} closes the connection; does it speak {settings.kafka_security_protocol}"
                " (STORMFOLD_KAFKA_SECURITY_PROTOCOL) there?"
            )
        case errors.BrokerResponseError() if not error.retriable:
            return ActionRequired(f"Kafka at {kafka} refuses: {_text(error)}")
        case errors.KafkaConnectionError() | errors.NodeNotReadyError() | errors.NoBrokersAvailable() | OSError():
            return Retry(f"no Kafka broker answers at {kafka} (STORMFOLD_KAFKA_BOOTSTRAP_SERVERS): {_text(error)}")
    return Retry(f"Kafka at {kafka}: {_text(error)}")


def _text(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer"
    said = error.strerror if isinstance(error, OSError) else ", ".join(_names(error.args))
    return " ".join((said or str(error) or type(error).__name__).split())


def _names(parts: Iterable[Any]) -> Iterable[str]:
    """What an error is about: aiokafka names it by text, as a partition, or in a set of topics."""
    for part in parts:
        if isinstance(part, set):
            yield from sorted(part)
        elif part:
            yield str(getattr(part, "topic", part))
