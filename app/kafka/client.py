"""What every Kafka client is built with, and what its errors mean to whoever runs it, in one line."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import errors
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.conn import collect_hosts, create_conn
from aiokafka.helpers import create_ssl_context

from app.errors import Retry, Stop
from app.settings import Settings

PROBE_MS = 5_000
"""Longest that the search for the reason of a failed connection may take, per broker."""

_TLS_FILES = "STORMFOLD_KAFKA_SSL_CAFILE, _CERTFILE and _KEYFILE"
_CREDENTIALS = (errors.SaslAuthenticationFailed, errors.AuthenticationFailedError)
_MECHANISM = (
    errors.UnsupportedSaslMechanismError,
    errors.IllegalSaslStateError,
    errors.AuthenticationMethodNotSupported,
)
_ACCESS = (
    errors.TopicAuthorizationFailedError,
    errors.GroupAuthorizationFailedError,
    errors.ClusterAuthorizationFailedError,
    errors.TransactionalIdAuthorizationFailed,
)


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
        try:
            options["ssl_context"] = create_ssl_context(
                cafile=settings.kafka_ssl_cafile,
                certfile=settings.kafka_ssl_certfile,
                keyfile=settings.kafka_ssl_keyfile,
            )
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


async def explain(error: BaseException, settings: Settings) -> Stop | Retry:
    """Like `broker_error`, but where aiokafka keeps the reason of a failed first connection to itself, finds it out."""
    if isinstance(error, errors.KafkaConnectionError):
        for host, port, _ in collect_hosts(settings.kafka):
            try:
                connection = await create_conn(
                    host, port, request_timeout_ms=PROBE_MS,
                    **{name: value for name, value in client_options(settings).items() if name != "bootstrap_servers"},
                )  # fmt: skip
            except (errors.KafkaError, OSError) as reason:
                error = reason
            else:
                connection.close()
                return Retry(_closed(settings))
    return broker_error(error, settings)


def broker_error(error: BaseException, settings: Settings) -> Stop | Retry:
    """Sorts what a Kafka client raised by what to do about it; the message is one line and has no credentials."""
    kafka, user = settings.kafka, settings.kafka_sasl_username or "this client"
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
        case _ if isinstance(error, _ACCESS):
            return Stop(f"Kafka at {kafka} does not let {user} do this: {_text(error)}", "grant it by an ACL")
        case errors.UnknownTopicOrPartitionError():
            return Stop(f"a topic is missing in Kafka at {kafka}: {_text(error)}", "run `stormfold topics --create`")
        case ssl.SSLError():
            return Stop(
                f"TLS to Kafka at {kafka} failed: {error.reason or error}",
                f"check STORMFOLD_KAFKA_SECURITY_PROTOCOL and the {_TLS_FILES} files",
            )
        case ConnectionResetError() | EOFError():
            return Retry(_closed(settings))
        case errors.BrokerResponseError() if not error.retriable:
            return Stop(f"Kafka at {kafka} refuses: {_text(error)}")
        case errors.KafkaConnectionError() | errors.NodeNotReadyError() | errors.NoBrokersAvailable() | OSError():
            return Retry(f"no Kafka broker answers at {kafka} (STORMFOLD_KAFKA): {_text(error)}")
    return Retry(f"Kafka at {kafka}: {_text(error)}")


def _closed(settings: Settings) -> str:
    return (
        f"Kafka at {settings.kafka} closes the connection; does it speak {settings.kafka_security_protocol}"
        " (STORMFOLD_KAFKA_SECURITY_PROTOCOL) there?"
    )


def _text(error: BaseException) -> str:
    said = error.strerror if isinstance(error, OSError) else ", ".join(str(part) for part in error.args if part)
    return " ".join((said or str(error) or type(error).__name__).split())
