"""A broker with authentication: a listener for each way to connect, and ACLs that tests grant."""

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from stormfold.local.kafka import EmbeddedKafka
from stormfold.local.process import HOST, free_port
from tests.integration.security.certificates import Authority, Files

_PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule required"
_SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule required"
PROTOCOLS = {
    "OPEN": "PLAINTEXT",
    "TLS": "SSL",
    "MUTUAL": "SSL",
    "EXPIRED": "SSL",
    "ELSEWHERE": "SSL",
    "LOGIN": "SASL_SSL",
    "CLEAR": "SASL_PLAINTEXT",
}
"""Listener → protocol: no security; TLS; client certificate; expired certificate; certificate of another host; password
over TLS; password in plain text."""
ANOTHER_HOST = "kafka.example.com"


class GuardedKafka(EmbeddedKafka):
    """A broker whose administrator uses the listener OPEN; all others have the rights that tests grant."""

    def __init__(self, data_dir: Path, authority: Authority, passwords: Mapping[str, str]) -> None:
        self._ports = {name: free_port() for name in PROTOCOLS}
        self.files = Files(authority, "kafka")
        """The files of all listeners with a valid certificate, which the broker reads when it starts."""
        server = self.files.pair
        stores = {
            "TLS": server,
            "MUTUAL": server,
            "LOGIN": server,
            "EXPIRED": authority.issue("kafka", expired=True),
            "ELSEWHERE": authority.issue("kafka", ANOTHER_HOST),
        }
        listeners = ",".join(f"{name}://{self.at(name)}" for name in PROTOCOLS)
        controller = f"{HOST}:{free_port()}"
        users = " ".join(f'user_{user}="{password}"' for user, password in passwords.items())
        properties = {
            "controller.quorum.voters": f"1@{controller}",
            "listeners": f"{listeners},CONTROLLER://{controller}",
            "advertised.listeners": listeners,
            "listener.security.protocol.map": ",".join(
                f"{name}:{protocol}" for name, protocol in (PROTOCOLS | {"CONTROLLER": "PLAINTEXT"}).items()
            ),
            "inter.broker.listener.name": "OPEN",
            "num.network.threads": "1",
            "group.min.session.timeout.ms": "1000",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
            "listener.name.mutual.ssl.client.auth": "required",
            "listener.name.mutual.ssl.principal.mapping.rules": "RULE:^.*CN=([^,]+).*$/$1/",
        }
        for name, pair in stores.items():
            properties |= {
                f"listener.name.{name.lower()}.ssl.keystore.type": "PEM",
                f"listener.name.{name.lower()}.ssl.keystore.location": str(pair.both),
                f"listener.name.{name.lower()}.ssl.truststore.type": "PEM",
                f"listener.name.{name.lower()}.ssl.truststore.location": str(self.files.trusted),
            }
        for name in ("login", "clear"):
            properties |= {
                f"listener.name.{name}.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-512",
                f"listener.name.{name}.plain.sasl.jaas.config": f"{_PLAIN} {users};",
                f"listener.name.{name}.scram-sha-512.sasl.jaas.config": f"{_SCRAM};",
                # Clients must authenticate again every 2 s, so that a changed password affects running workers.
                f"listener.name.{name}.scram-sha-512.connections.max.reauth.ms": "2000",
            }
        super().__init__(data_dir, self._ports["OPEN"], properties=properties)

    @cached_property
    def _admin(self) -> AdminClient:
        # Without this, it logs every start and stop of the broker.
        return AdminClient({"bootstrap.servers": self.at("OPEN"), "log_level": 0})

    def at(self, listener: str) -> str:
        """Returns the address of a listener."""
        return f"{HOST}:{self._ports[listener]}"

    def grant(self, acls: Iterable[AclBinding]) -> None:
        """Adds ACLs."""
        _done(self._admin.create_acls(list(acls)))

    def set_password(self, user: str, password: str) -> None:
        """Sets the SCRAM password of a user."""
        info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
        change = UserScramCredentialUpsertion(user, info, password.encode())
        _done(self._admin.alter_user_scram_credentials([change]))


def _done(futures: Mapping[Any, Any]) -> None:
    for future in futures.values():
        future.result()


def rules(rows: Iterable[tuple[str, str, str]], user: str) -> list[AclBinding]:
    """Returns ACLs for rows of (resource, name, operation)."""
    return [
        AclBinding(
            ResourceType[resource.upper()], name, ResourcePatternType.LITERAL, f"User:{user}", "*",
            AclOperation[operation.upper()], AclPermissionType.ALLOW,
        )
        for resource, name, operation in rows
    ]  # fmt: skip
