"""What every Kafka client is built with, and what its errors mean to whoever runs it, in one line."""

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from functools import wraps
from typing import Any

from aiokafka import errors
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.conn import AIOKafkaConnection, CloseReason, collect_hosts, create_conn
from aiokafka.protocol.metadata import MetadataRequest

from app.errors import Retry, Stop, StormfoldError
from app.settings import Settings
from app.tls import FollowingContext, tls_error

PROBE_MS = 5_000
"""Longest that a question to one broker may take, by a connection of its own."""

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


def client_options(settings: Settings) -> dict[str, Any]:
    """Addresses and credentials, as aiokafka's consumer, producer and admin client take them.

    Raises `Stop` for a certificate or key that cannot be read.
    """
    options: dict[str, Any] = {
        "bootstrap_servers": settings.kafka,
        "security_protocol": settings.kafka_security_protocol,
    }
    if "SASL" in settings.kafka_security_protocol:
        password = settings.kafka_sasl_password
        options["sasl_mechanism"] = settings.kafka_sasl_mechanism
        options["sasl_plain_username"] = settings.kafka_sasl_username
        options["sasl_plain_password"] = password.get_secret_value() if password else None
    if "SSL" in settings.kafka_security_protocol:
        files = settings.kafka_ssl_cafile, settings.kafka_ssl_certfile, settings.kafka_ssl_keyfile
        try:
            options["ssl_context"] = FollowingContext(*files)
        except OSError as error:
            raise Stop(
                f"cannot use the TLS files for Kafka: {error}", "check the STORMFOLD_KAFKA_SSL_… files"
            ) from error
    return options


@asynccontextmanager
async def open_admin(settings: Settings) -> AsyncIterator[AIOKafkaAdminClient]:
    """A started admin client. What Kafka refuses inside becomes `Stop` or `Retry`."""
    admin = AIOKafkaAdminClient(**client_options(settings))
    try:
        await admin.start()
        yield admin
    except (errors.KafkaError, OSError) as error:
        raise await explain(error, settings) from error
    finally:
        await admin.close()


async def metadata(settings: Settings, topics: Iterable[str]) -> Any:
    """What the first broker that answers knows of these topics; none is created by asking.

    Raises what kept it from an answer: `Stop` if that is so for any broker, else `Retry`.
    """
    options = {name: value for name, value in client_options(settings).items() if name != "bootstrap_servers"}
    reasons: list[Stop | Retry] = []
    for host, port, _ in collect_hosts(settings.kafka):
        try:
            connection = await create_conn(host, port, request_timeout_ms=PROBE_MS, **options)
            try:
                return await connection.send(MetadataRequest(list(topics), allow_auto_topic_creation=False))
            finally:
                connection.close()
        except (errors.KafkaError, OSError) as error:
            reasons.append(broker_error(error, settings))
    raise next((reason for reason in reasons if isinstance(reason, Stop)), reasons[0])


async def explain(error: BaseException, settings: Settings) -> StormfoldError:
    """Like `broker_error`, but where aiokafka keeps the reason of a failed connection to itself, finds it out."""
    if isinstance(error, errors.KafkaConnectionError):
        try:
            await metadata(settings, ())
        except StormfoldError as reason:
            return reason
    return broker_error(error, settings)


def broker_error(error: BaseException, settings: Settings) -> Stop | Retry:
    """Sorts what a Kafka client raised by what to do about it; the message is one line and has no credentials."""
    kafka, user = settings.kafka, settings.kafka_sasl_username or "this client"
    if isinstance(error, errors.KafkaConnectionError) and isinstance(error.__cause__, OSError | EOFError):
        error = error.__cause__
    if handshake := tls_error(error, f"Kafka at {kafka}", "STORMFOLD_KAFKA"):
        return handshake
    match error:
        case _ if isinstance(error, _CREDENTIALS):
            return Stop(
                f"Kafka at {kafka} refuses the user name or password",
                "check STORMFOLD_KAFKA_SASL_USERNAME and STORMFOLD_KAFKA_SASL_PASSWORD",
            )
        case _ if isinstance(error, _MECHANISM):
            return Stop(
                f"Kafka at {kafka} does not take the SASL mechanism {settings.kafka_sasl_mechanism}",
                "check STORMFOLD_KAFKA_SASL_MECHANISM and STORMFOLD_KAFKA_SECURITY_PROTOCOL",
            )
        case _ if isinstance(error, tuple(_ACCESS)):
            # The admin client makes a sentence of a group's name, which is its last word.
            what = _text(error).split()[-1] if isinstance(error, errors.GroupAuthorizationFailedError) else _text(error)
            return Stop(
                f"Kafka at {kafka} does not let {user} {_ACCESS[type(error)]} {what}",
                "grant it by an ACL; docs/how-to/secure.md lists what each stage needs",
            )
        case errors.UnknownTopicOrPartitionError():
            return Stop(f"a topic is missing in Kafka at {kafka}: {_text(error)}", "run `stormfold topics --create`")
        case ConnectionResetError() | EOFError():
            return Retry(
                f"Kafka at {kafka} closes the connection; does it speak {settings.kafka_security_protocol}"
                " (STORMFOLD_KAFKA_SECURITY_PROTOCOL) there?"
            )
        case errors.BrokerResponseError() if not error.retriable:
            return Stop(f"Kafka at {kafka} refuses: {_text(error)}")
        case errors.KafkaConnectionError() | errors.NodeNotReadyError() | errors.NoBrokersAvailable() | OSError():
            return Retry(f"no Kafka broker answers at {kafka} (STORMFOLD_KAFKA): {_text(error)}")
    return Retry(f"Kafka at {kafka}: {_text(error)}")


def _text(error: BaseException) -> str:
    said = error.strerror if isinstance(error, OSError) else ", ".join(_names(error.args))
    return " ".join((said or str(error) or type(error).__name__).split())


def _names(parts: Iterable[Any]) -> Iterable[str]:
    """What an error is about: aiokafka names it by text, as a partition, or in a set of topics."""
    for part in parts:
        if isinstance(part, set):
            yield from sorted(part)
        elif part:
            yield str(getattr(part, "topic", part))
