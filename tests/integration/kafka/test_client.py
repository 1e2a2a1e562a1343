"""Failures between a client and a real broker, and their one-line errors."""

from collections.abc import Iterator

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from stormfold.errors import ActionRequired, Retry, StormfoldError
from stormfold.kafka.client import client_options, diagnose, open_admin
from stormfold.kafka.topics import create, topics
from stormfold.local.kafka import EmbeddedKafka
from stormfold.local.process import HOST, free_port
from stormfold.settings import Settings

LOGIN = "org.apache.kafka.common.security.plain.PlainLoginModule required"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address where a broker asks who is there: `alice` with the password `secret`, who may do nothing."""
    plain, login, controller = free_port(), free_port(), free_port()
    broker = EmbeddedKafka(
        tmp_path_factory.mktemp("guarded"),
        port=plain,
        properties={
            "controller.quorum.voters": f"1@{HOST}:{controller}",
            "listeners": f"PLAINTEXT://{HOST}:{plain},LOGIN://{HOST}:{login},CONTROLLER://{HOST}:{controller}",
            "advertised.listeners": f"PLAINTEXT://{HOST}:{plain},LOGIN://{HOST}:{login}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,LOGIN:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT",
            "listener.name.login.sasl.enabled.mechanisms": "PLAIN",
            "listener.name.login.plain.sasl.jaas.config": f'{LOGIN} user_alice="secret";',
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
        },
    )
    broker.start()
    yield f"{HOST}:{login}"
    broker.stop()


def _alice(address: str, password: str = "secret", mechanism: str = "PLAIN") -> Settings:
    return Settings(
        kafka_bootstrap_servers=address,
        kafka_security_protocol="SASL_PLAINTEXT",
        kafka_sasl_mechanism=mechanism,
        kafka_sasl_username="alice",
        kafka_sasl_password=password,
    )


async def _error(settings: Settings) -> StormfoldError:
    with pytest.raises(StormfoldError) as raised:
        async with open_admin(settings) as admin:
            await create(admin, topics(settings, 1))
    assert "secret" not in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1
    return raised.value


async def test_an_unreachable_broker_is_retried() -> None:
    """The broker may be starting; the message has the address and the setting that it comes from."""
    settings = Settings(kafka_bootstrap_servers=f"{HOST}:{free_port()}")
    error = await _error(settings)
    assert isinstance(error, Retry)
    assert str(error).startswith(
        f"no Kafka broker answers at {settings.kafka_bootstrap_servers} (STORMFOLD_KAFKA_BOOTSTRAP_SERVERS)"
    )


async def test_an_unknown_host_is_named_in_the_error() -> None:
    """A typing error in the address is not hidden behind a message of the client."""
    error = await _error(Settings(kafka_bootstrap_servers="kafka.invalid:9092"))
    assert "kafka.invalid:9092" in str(error)


async def test_a_wrong_password_needs_action(guarded: str) -> None:
    """It is not taken for an unreachable broker, although the first connection fails in the same way."""
    error = await _error(_alice(guarded, "secret-but-wrong"))
    assert isinstance(error, ActionRequired)
    assert "rejects the credentials" in str(error)
    assert error.hint and "STORMFOLD_KAFKA_SASL_PASSWORD" in error.hint


async def test_a_wrong_sasl_mechanism_needs_action(guarded: str) -> None:
    """The hint has the variable to check."""
    error = await _error(_alice(guarded, mechanism="SCRAM-SHA-256"))
    assert isinstance(error, ActionRequired)
    assert "SCRAM-SHA-256" in str(error)
    assert error.hint and "STORMFOLD_KAFKA_SASL_MECHANISM" in error.hint


async def test_a_missing_permission_names_user_and_topic(guarded: str) -> None:
    """The message states which user must not use which topic."""
    error = await _error(_alice(guarded))
    assert isinstance(error, ActionRequired)
    assert "denies alice: cannot use topic alerts" in str(error)


@pytest.mark.parametrize("protocol", ["SSL", "PLAINTEXT"])
async def test_a_wrong_security_protocol_is_not_taken_for_an_unreachable_broker(
    kafka: EmbeddedKafka, guarded: str, protocol: str
) -> None:
    """TLS where the broker has none, and no login where it requires one."""
    address = kafka.bootstrap if protocol == "SSL" else guarded
    error = await _error(Settings(kafka_bootstrap_servers=address, kafka_security_protocol=protocol))
    assert f"does it speak {protocol} (STORMFOLD_KAFKA_SECURITY_PROTOCOL)" in str(error)


async def test_diagnose_finds_why_a_producer_did_not_start(guarded: str) -> None:
    """It applies to any client, also if aiokafka hides the reason."""
    settings = _alice(guarded, "wrong")
    producer = AIOKafkaProducer(**client_options(settings))
    with pytest.raises(KafkaError) as raised:
        await producer.start()
    await producer.stop()
    assert "rejects the credentials" in str(await diagnose(raised.value, settings))
