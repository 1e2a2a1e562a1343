"""What all Kafka clients have in common: options, starting, and errors in one line with the fix."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import errors
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.conn import collect_hosts, create_conn
from aiokafka.protocol.metadata import MetadataRequest

from stormfold.errors import NOT_RUNNING_HINT, ActionRequired, Retry, StormfoldError
from stormfold.kafka._patches import CONNECT_SECONDS, reaches_a_broker
from stormfold.kafka.tokens import TokenError, token_provider
from stormfold.settings import TOKEN_MECHANISMS, Settings
from stormfold.tls import ReloadingSSLContext, tls_error

REQUEST_TIMEOUT_MS = 10_000
"""Longest that a broker may take to answer. It is longer than `broker.session.timeout.ms` (9 s), after which another
broker takes over from a silent one, and shorter than the workers' session timeout, so that they keep their partitions.
"""
METADATA_MAX_AGE_MS = 5_000
"""Longest that a new leader or an added partition can stay unknown. It is shorter than the default grace, or the first
records of an added partition would be late."""
REACH_SECONDS = 1.0
"""Seconds that a client may take to start and to reach a broker; after them, all brokers are tried."""

_FORBIDDEN = {
    errors.TopicAuthorizationFailedError: "use topic",
    errors.GroupAuthorizationFailedError: "use consumer group",
    errors.TransactionalIdAuthorizationFailed: "use transactional id",
    errors.ClusterAuthorizationFailedError: "do this in the cluster:",
}


def client_options(settings: Settings) -> dict[str, Any]:
    """Addresses, credentials and timeouts, as aiokafka's consumer, producer and admin client take them.

    Raises `ActionRequired` for a certificate or key that cannot be read.
    """
    options: dict[str, Any] = {
        "bootstrap_servers": settings.kafka_bootstrap_servers,
        "security_protocol": settings.kafka_security_protocol,
        "request_timeout_ms": REQUEST_TIMEOUT_MS,
        "metadata_max_age_ms": METADATA_MAX_AGE_MS,
    }
    if "SASL" in settings.kafka_security_protocol:
        if settings.kafka_sasl_mechanism in TOKEN_MECHANISMS:
            options["sasl_oauth_token_provider"] = token_provider(settings)
            options["sasl_mechanism"] = "OAUTHBEARER"
        else:
            options["sasl_mechanism"] = settings.kafka_sasl_mechanism
        password = settings.kafka_sasl_password
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


async def start_client(client: Any, settings: Settings) -> None:
    """Starts a consumer, producer or admin client. Raises `Retry` or `ActionRequired`; the caller closes the client.

    Of its own accord aiokafka would wait without limit for brokers that cannot be reached where they advertise.
    """

    async def start() -> bool:
        await client.start()
        return await reaches_a_broker(client)

    starting = asyncio.ensure_future(start())
    try:
        done, _ = await asyncio.wait({starting}, timeout=REACH_SECONDS)
        if not done or not await starting:
            await check_brokers(settings, any_is_enough=True)
        await starting
    except (errors.KafkaError, OSError) as error:
        raise await diagnose(error, settings) from error
    finally:
        if not starting.done():
            starting.cancel()
            await asyncio.wait({starting})


@asynccontextmanager
async def open_admin(settings: Settings) -> AsyncIterator[AIOKafkaAdminClient]:
    """Opens an admin client. aiokafka's errors in the block become `ActionRequired` or `Retry`."""
    admin = AIOKafkaAdminClient(**client_options(settings))
    try:
        await start_client(admin, settings)
        yield admin
    except (errors.KafkaError, OSError) as error:
        raise await diagnose(error, settings) from error
    finally:
        await admin.close()


async def metadata(settings: Settings, topics: Iterable[str]) -> Any:
    """Metadata of these topics from the first bootstrap server that answers. A missing topic is not created.

    If none answers, raises the reason: `ActionRequired` if it applies to any broker, else `Retry`.
    """
    reasons: list[ActionRequired | Retry] = []
    for host, port, _ in collect_hosts(settings.kafka_bootstrap_servers):
        try:
            connection = await _connect(settings, host, port)
            try:
                return await connection.send(MetadataRequest(list(topics), allow_auto_topic_creation=False))
            finally:
                connection.close()
        except (errors.KafkaError, OSError) as error:
            reasons.append(broker_error(error, settings))
    raise _worst(reasons)


async def cluster_id(settings: Settings) -> str:
    """The id of the Kafka cluster; empty if it has none. Raises `Retry` or `ActionRequired`."""
    return getattr(await metadata(settings, ()), "cluster_id", None) or ""


async def check_brokers(settings: Settings, *, any_is_enough: bool = False) -> None:
    """Connects to all brokers at the addresses that they advertise.

    Raises the reason if one of them cannot be reached, or with `any_is_enough` only if none can.
    """

    async def check(host: str, port: int) -> ActionRequired | Retry | None:
        try:
            (await _connect(settings, host, port)).close()
        except (errors.KafkaError, OSError) as error:
            return broker_error(error, settings, f"{host}:{port}")
        return None

    brokers = (await metadata(settings, ())).brokers
    found = await asyncio.gather(*(check(host, port) for _, host, port, *_ in brokers))
    reasons = [reason for reason in found if reason is not None]
    if reasons and not (any_is_enough and len(reasons) < len(found)):
        raise _worst(reasons)


async def _connect(settings: Settings, host: str, port: int) -> Any:
    options = client_options(settings) | {"request_timeout_ms": round(CONNECT_SECONDS * 1000)}
    del options["bootstrap_servers"], options["metadata_max_age_ms"]
    return await create_conn(host, port, **options)


def _worst(reasons: Sequence[ActionRequired | Retry]) -> ActionRequired | Retry:
    return next((reason for reason in reasons if isinstance(reason, ActionRequired)), reasons[0])


async def diagnose(error: BaseException, settings: Settings) -> StormfoldError:
    """Like `broker_error`; if a client could not reach a broker, connects to all of them to find the reason."""
    if not isinstance(error, errors.BrokerResponseError) or error.retriable:
        try:
            await check_brokers(settings)
        except StormfoldError as reason:
            return reason
    return broker_error(error, settings)


def broker_error(error: BaseException, settings: Settings, advertised: str = "") -> ActionRequired | Retry:
    """Converts an error of a Kafka client by what to do about it; the message is one line without credentials.

    `advertised` is the address of a broker in the metadata, if the connection to it failed.
    """
    kafka = f"Kafka at {advertised or settings.kafka_bootstrap_servers}"
    user = settings.kafka_sasl_username or settings.kafka_oauth_client_id or "this client"
    if isinstance(error, TokenError) and isinstance(error.__cause__, ActionRequired | Retry):
        return error.__cause__
    if isinstance(error, errors.KafkaConnectionError) and isinstance(error.__cause__, OSError | EOFError):
        error = error.__cause__
    source = "advertised.listeners of the broker" if advertised else "STORMFOLD_KAFKA_BOOTSTRAP_SERVERS"
    if handshake := tls_error(error, kafka, "STORMFOLD_KAFKA", source):
        return handshake
    if rejected := _login_error(error, kafka, user, settings):
        return rejected
    match error:
        case _ if isinstance(error, tuple(_FORBIDDEN)):
            # For a group the admin client returns a sentence, which ends with the group's name.
            name = _text(error).split()[-1] if isinstance(error, errors.GroupAuthorizationFailedError) else _text(error)
            return ActionRequired(
                f"{kafka} denies {user}: cannot {_FORBIDDEN[type(error)]} {name}",
                "grant it by an ACL; docs/how-to/secure.md lists what each stage needs",
            )
        case errors.UnknownTopicOrPartitionError():
            return ActionRequired(f"a topic is missing in {kafka}: {_text(error)}", "run `stormfold topics --create`")
        case ConnectionResetError() | EOFError():
            return Retry(
                f"{kafka} closes the connection; does it speak {settings.kafka_security_protocol}"
                " (STORMFOLD_KAFKA_SECURITY_PROTOCOL) there?"
            )
        case errors.BrokerResponseError() if not error.retriable:
            return ActionRequired(f"{kafka} rejected the request: {_text(error)}")
        case errors.KafkaConnectionError() | errors.NodeNotReadyError() | errors.NoBrokersAvailable() | OSError():
            if advertised:
                return Retry(
                    f"Kafka at {settings.kafka_bootstrap_servers} answers, but advertises {advertised}, "
                    f"which cannot be reached from here: {_text(error)}",
                    "start that broker, correct its advertised.listeners, or make that address known and open here",
                )
            return Retry(
                f"no Kafka broker answers at {settings.kafka_bootstrap_servers} (STORMFOLD_KAFKA_BOOTSTRAP_SERVERS): "
                f"{_text(error)}",
                NOT_RUNNING_HINT,
            )
    return Retry(f"{kafka}: {_text(error)}")


def _login_error(error: BaseException, kafka: str, user: str, settings: Settings) -> ActionRequired | None:
    match error:
        case errors.SaslAuthenticationFailed() if settings.kafka_sasl_mechanism in TOKEN_MECHANISMS:
            return ActionRequired(
                f"{kafka} rejects the token of {user}: {_text(error)}",
                "check which issuer, audience and scope the broker expects; docs/how-to/secure.md lists the variables",
            )
        case errors.SaslAuthenticationFailed() | errors.AuthenticationFailedError():
            return ActionRequired(
                f"{kafka} rejects the credentials",
                "check STORMFOLD_KAFKA_SASL_USERNAME and STORMFOLD_KAFKA_SASL_PASSWORD",
            )
        case (
            errors.UnsupportedSaslMechanismError()
            | errors.IllegalSaslStateError()
            | errors.AuthenticationMethodNotSupported()
        ):
            return ActionRequired(
                f"{kafka} does not support the SASL mechanism {settings.kafka_sasl_mechanism}",
                "check STORMFOLD_KAFKA_SASL_MECHANISM and STORMFOLD_KAFKA_SECURITY_PROTOCOL",
            )
    return None


def _text(error: BaseException) -> str:
    match error:
        case TimeoutError():
            return "no answer"
        case ConnectionRefusedError():
            return "connection refused"
        case socket.gaierror(errno=socket.EAI_NONAME):
            return "unknown host"
    text = error.strerror if isinstance(error, OSError) else ", ".join(_subjects(error.args))
    return " ".join((text or str(error) or type(error).__name__).split())


def _subjects(args: Iterable[Any]) -> Iterable[str]:
    """The topics or groups that an error is about: aiokafka gives a text, a partition, or a set of topics."""
    for arg in args:
        if isinstance(arg, set):
            yield from sorted(arg)
        elif arg:
            yield str(getattr(arg, "topic", arg))
