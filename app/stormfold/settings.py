"""Settings from `STORMFOLD_*` environment variables: addresses, credentials, sizes. `config` has what alerts mean."""

import difflib
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, FilePath, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from stormfold.errors import ActionRequired
from stormfold.redis_url import validate_redis_url, without_credentials
from stormfold.setting_types import Address, Addresses, HttpUrl, HttpUrls, Password, Seconds, Topic, User

PREFIX = "STORMFOLD_"

STAGES = ("intake", "fold", "close", "correlate", "emit")
"""The stages of a worker, in the order of the pipeline."""

TOKEN_MECHANISMS = ("OAUTHBEARER", "AWS_MSK_IAM")
"""SASL mechanisms that send a token."""

# Kubernetes sets such variables in every pod for each Service: "stormfold-web" gives STORMFOLD_WEB_PORT.
_SERVICE_LINK = re.compile(
    r"\w+_SERVICE_HOST=.*|\w+_SERVICE_PORT(_\w+)?=.*|\w+_PORT(_\d+_\w+)?=(tcp|udp|sctp)://.*|\w+_PORT_\d+_\w+=.*"
)

_USES = (
    (
        "kafka_sasl_(username|password)|kafka_oauth_.+",
        "kafka_security_protocol",
        "SASL_.+",
        "SASL_SSL or SASL_PLAINTEXT, to use the credentials",
    ),
    ("kafka_oauth_.+", "kafka_sasl_mechanism", "OAUTHBEARER", "OAUTHBEARER, to use the token endpoint"),
    ("kafka_ssl_.+", "kafka_security_protocol", ".*SSL", "SSL or SASL_SSL, to use the files for TLS"),
    ("redis_ssl_.+", "redis_url", "rediss.+", "rediss://, to use the files for TLS"),
    ("redis_sentinel_.+", "redis_url", r".+\+sentinel://.+", "redis+sentinel://, to use credentials of Sentinels"),
    ("alertmanager_.+", "alertmanager", ".+", "URLs of Alertmanager, to use its credentials and files"),
    *(
        (f"{server}_ssl_keyfile", f"{server}_ssl_certfile", ".+", "the certificate that belongs to the key")
        for server in ("receive", "alertmanager", "kafka", "redis")
    ),
)
"""Names of settings, the setting on which their use depends, its values with which they are used, and what an error
expects. Names and values are regular expressions."""


class SettingsError(ActionRequired):
    """An environment variable is unknown or has a value that is not valid."""


def _sink(value: str) -> str:
    if value not in ("kubernetes", "none") and not (value.startswith("directory:") and value != "directory:"):
        raise ValueError(f"expected kubernetes, directory:PATH or none, found {value!r}")
    return value


def _stages(value: str) -> str:
    names = value.split(",")
    if any(name not in STAGES for name in names) or len(set(names)) < len(names):
        raise ValueError(f"expected some of {','.join(STAGES)}, found {value!r}")
    return value


def home_folder(variable: str, *inside: str) -> Path:
    """The folder that `variable` names, or this one in the home folder; the working directory if there is no home.

    A user without an entry in the password database, such as the random one of a container, has a home only by HOME.
    """
    if named := os.environ.get(variable):
        return Path(named) / "stormfold"
    try:
        return Path.home().joinpath(*inside) / "stormfold"
    except RuntimeError:
        return Path("stormfold").absolute()


def _data_dir() -> Path:
    return home_folder("XDG_DATA_HOME", ".local", "share")


class Settings(BaseSettings):
    """Everything that depends on where stormfold runs. Arguments override the environment.

    Raises `SettingsError` for a variable that is unknown or has a value that is not valid; messages never contain
    credentials.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )

    kafka_bootstrap_servers: Addresses = "127.0.0.1:9092"
    """Bootstrap servers of Kafka as `host:port`, separated by commas. The default is a broker on this machine."""
    redis_url: Annotated[str, AfterValidator(validate_redis_url)] = Field("redis://127.0.0.1:6379/0", repr=False)
    """URL of Redis: `redis://HOST:PORT/DB`, `redis+sentinel://HOST:PORT,HOST:PORT/SERVICE?db=DB` for the primary that
    Sentinels know, `redis+cluster://HOST:PORT,HOST:PORT` for a cluster; `rediss` instead of `redis` for TLS;
    `unix:///PATH` for a socket. The default is a Redis on this machine. Credentials in the URL must be percent-encoded;
    `STORMFOLD_REDIS_PASSWORD` avoids that."""
    sink: Annotated[str, AfterValidator(_sink)] = "none"
    """Where storms and incidents are written: `kubernetes`, `directory:PATH` (one manifest per storm, and in its folder
    `incidents` one per incident) or `none`. By default they are only published to their topics, so that a new worker
    changes nothing outside of Kafka and Redis."""
    config: Path | None = None
    """YAML file with routes, silences and windows. Without one, the built-in defaults apply."""
    http_address: Address = "127.0.0.1:8080"
    """Address of health, metrics and the status page, which have no login. So the default serves this machine only;
    containers set `0.0.0.0:8080`."""

    receive_address: Address = "127.0.0.1:9095"
    """Address that `stormfold receive` listens on. Containers set `0.0.0.0:9095`."""
    receive_token_file: FilePath | None = None
    """File of bearer tokens, one in each line, that `stormfold receive` accepts; without it and the next, everybody may
    send."""
    receive_users_file: FilePath | None = None
    """File of users, `user:password` in each line, that `stormfold receive` accepts."""
    receive_ssl_certfile: FilePath | None = None
    """PEM file of the certificate that `stormfold receive` shows; with one it takes HTTPS only."""
    receive_ssl_keyfile: FilePath | None = None
    """PEM file of its key, if it is not in the file of the certificate."""

    alertmanager: HttpUrls | None = None
    """URLs of Alertmanager, such as `http://alertmanager:9093`, separated by commas. Incidents that are still open are
    announced to every address that the names have. Without it, nothing is announced."""
    alertmanager_token_file: FilePath | None = None
    """File with the bearer token for Alertmanager; it is read for each request."""
    alertmanager_username: str | None = None
    """User name for Alertmanager, with the next."""
    alertmanager_password_file: FilePath | None = None
    """File with the password for Alertmanager; it is read for each request."""
    alertmanager_ssl_cafile: FilePath | None = None
    """PEM file with the CA certificates for Alertmanager; default: the CA certificates of the system."""
    alertmanager_ssl_certfile: FilePath | None = None
    """PEM file with the client certificate, if Alertmanager requires one."""
    alertmanager_ssl_keyfile: FilePath | None = None
    """PEM file with the client key, if it is not in the file of the certificate."""
    external_url: HttpUrl | None = None
    """URL under which people reach the status page: the link in announced incidents. Without it, they have no link."""

    alerts_topic: Topic = "alerts"
    """Topic that producers publish alerts to."""
    keyed_topic: Topic = "alerts-by-fingerprint"
    """Topic between intake and fold: alerts with their event time, keyed by fingerprint."""
    keyed_compression: Literal["none", "lz4", "zstd"] = "zstd"
    """Compression of that topic. Its alerts resemble each other: `zstd` needs a tenth of the disk and network, `lz4` a
    seventh and more CPU of the workers. With `none` workers need a few percent less CPU, and brokers more."""
    storms_topic: Topic = "storms"
    """Topic of closed aggregates: the manifest as value, its name as key."""
    incidents_topic: Topic = "incidents"
    """Topic of incidents: the manifest as value, its name as key."""
    alerts_dlq_topic: Topic = "alerts-dlq"
    """Dead-letter queue of `alerts`: records that cannot be parsed, unchanged, with the reason in headers."""
    storms_dlq_topic: Topic = "storms-dlq"
    """Dead-letter queue of `storms`: storms that the sink rejects permanently, with the reason in headers."""
    incidents_dlq_topic: Topic = "incidents-dlq"
    """Dead-letter queue of `incidents`: incidents that the sink rejects permanently, with the reason in headers."""
    redis_prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")] = "stormfold"
    """Prefix of every key in Redis. Pipelines that share a Redis need different prefixes."""
    group_prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,200}$")] = "stormfold"
    """Prefix of the consumer groups: `stormfold-intake`, `stormfold-fold`, `stormfold-incidents` of correlate,
    `stormfold-emit` for storms and `stormfold-emit-incidents` for incidents. Pipelines that share a Kafka need
    different prefixes."""

    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    """Security protocol of the brokers. The default suits a local broker; use `SASL_SSL` or `SSL` elsewhere."""
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER", "AWS_MSK_IAM"] = "PLAIN"
    """SASL mechanism, if the security protocol uses SASL. The default is the one that all brokers support.
    `OAUTHBEARER` needs the `STORMFOLD_KAFKA_OAUTH_…` variables, `AWS_MSK_IAM` the extra `stormfold[msk]` and AWS
    credentials."""
    kafka_sasl_username: User | None = None
    """User name for SASL. One newline at the end is removed, because Secrets made from files have one."""
    kafka_sasl_password: Password | None = None
    """Password for SASL. One newline at the end is removed."""
    kafka_oauth_token_url: Annotated[str, Field(pattern=r"^https?://[^\s]+$")] | None = None
    """URL of the OAuth 2.0 token endpoint for `OAUTHBEARER`."""
    kafka_oauth_client_id: User | None = None
    """Client id for the token endpoint. One newline at the end is removed."""
    kafka_oauth_client_secret: Password | None = None
    """Client secret for the token endpoint. One newline at the end is removed."""
    kafka_oauth_scope: str | None = None
    """Scopes to request, separated by spaces, if the token endpoint needs them."""
    kafka_oauth_extensions: Annotated[str, Field(pattern=r"^[A-Za-z]+=[^,]+(,[A-Za-z]+=[^,]+)*$")] | None = None
    """SASL extensions to send with the token, as `name=value`, separated by commas."""
    kafka_oauth_ssl_cafile: FilePath | None = None
    """PEM file with the CA certificates for the token endpoint; default: the CA certificates of the system."""
    kafka_aws_region: str | None = None
    """AWS region of the cluster for `AWS_MSK_IAM`; default: `AWS_REGION` or `AWS_DEFAULT_REGION`."""
    kafka_ssl_cafile: FilePath | None = None
    """PEM file with the CA certificates for the brokers; default: the CA certificates of the system."""
    kafka_ssl_certfile: FilePath | None = None
    """PEM file with the client certificate, if the server requires one."""
    kafka_ssl_keyfile: FilePath | None = None
    """PEM file with the client key, if it is not in the file of the certificate."""

    redis_username: User | None = None
    """User name for Redis; overrides that of the URL. One newline at the end is removed."""
    redis_password: Password | None = None
    """Password for Redis; overrides that of the URL. One newline at the end is removed."""
    redis_sentinel_username: User | None = None
    """User name for the Sentinels of `redis+sentinel://`, whose credentials are never those of Redis. One newline at
    the end is removed."""
    redis_sentinel_password: Password | None = None
    """Password for the Sentinels, if they require one. One newline at the end is removed."""
    redis_ssl_cafile: FilePath | None = None
    """PEM file with the CA certificates for Redis; default: the CA certificates of the system."""
    redis_ssl_certfile: FilePath | None = None
    """PEM file with the client certificate, if the server requires one."""
    redis_ssl_keyfile: FilePath | None = None
    """PEM file with the client key, if it is not in the file of the certificate."""

    kubeconfig: FilePath | None = None
    """kubeconfig file for the API server; default: the service account in a pod, elsewhere kubectl's default file."""
    kube_context: str | None = None
    """Context in the kubeconfig file; default: its current context."""

    stages: Annotated[str, AfterValidator(_stages)] = ",".join(STAGES)
    """Stages that the worker runs, separated by commas. All by default, so that one worker is a whole pipeline. `emit`
    writes storms and incidents, each with a consumer group and a readiness of its own."""
    max_poll_records: Annotated[int, Field(ge=1, le=100_000)] = 20_000
    """Largest number of records in a batch, in intake at most 10,000. Batches are this large only during a backlog.
    Larger ones cost less per alert; above the default the gain is small, the memory grows, and each call keeps Redis
    busy for longer, up to 150 ms by default."""
    session_timeout: Seconds = 15.0
    """Seconds without a heartbeat after which the brokers remove a worker from its consumer groups. The default
    survives short pauses and keeps recovery short."""
    close_lease: Seconds = 30.0
    """Seconds for which close leases a group, and one worker its turn to correlate. It must exceed the delivery
    timeout. If Kafka does not acknowledge within the lease, another worker can do the same work: a storm or incident
    may be published twice, under one name and with the same content. The default leaves time for retries."""
    delivery_timeout: Seconds = 10.0
    """Seconds that a broker has to acknowledge records; then they are sent again to the current leader. The default is
    just above the 9 s after which Kafka replaces a broker without heartbeats."""

    log_format: Literal["auto", "json", "console"] = "auto"
    """Format of the log: `auto` is `console` on a terminal, otherwise `json`, one object on each line."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Lowest level that is logged. `debug` adds details for developers."""
    data_dir: Path = Field(default_factory=_data_dir)
    """Folder for the data of Kafka and Redis of `stormfold demo` and `stormfold up`; default:
    `~/.local/share/stormfold`, or below `XDG_DATA_HOME`; `stormfold` in the working directory if there is no home."""

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise _settings_error(error) from None
        _reject_unknown(os.environ)

    @model_validator(mode="after")
    def _validate_combination(self) -> "Settings":
        self._validate_uses()
        self._validate_sasl()
        self._validate_topics()
        if (self.alertmanager_username is None) != (self.alertmanager_password_file is None):
            raise ValueError(
                f"{variable('alertmanager_username')} and {variable('alertmanager_password_file')}: expected both"
            )
        if self.close_lease <= self.delivery_timeout:
            raise ValueError(
                f"{variable('close_lease')}: expected more than {variable('delivery_timeout')}"
                f" ({self.delivery_timeout:g} s)"
            )
        return self

    def _validate_uses(self) -> None:
        """Raises `ValueError` for files and credentials that would not be used: people rely on those they set."""
        values = {name: str(value) for name in type(self).model_fields if (value := getattr(self, name)) is not None}
        for names, other, used, expected in _USES:
            if not re.fullmatch(used, values.get(other, "")) and any(re.fullmatch(names, name) for name in values):
                raise ValueError(f"{variable(other)}: expected {expected}")

    def _validate_sasl(self) -> None:
        """Raises `ValueError` for credentials that are missing."""
        if not self.kafka_security_protocol.startswith("SASL_"):
            return
        mechanism = self.kafka_sasl_mechanism
        user = ("kafka_sasl_username", "kafka_sasl_password")
        oauth = ("kafka_oauth_token_url", "kafka_oauth_client_id", "kafka_oauth_client_secret")
        if mechanism == "OAUTHBEARER" and any(getattr(self, name) is None for name in oauth):
            raise ValueError(f"{', '.join(map(variable, oauth))}: expected all three, for OAUTHBEARER")
        if mechanism == "AWS_MSK_IAM" and not self.aws_region:
            raise ValueError(f"{variable('kafka_aws_region')}: expected the region of the cluster, for AWS_MSK_IAM")
        if mechanism not in TOKEN_MECHANISMS and any(getattr(self, name) is None for name in user):
            raise ValueError(f"{' and '.join(map(variable, user))}: expected both, for SASL")

    def _validate_topics(self) -> None:
        """Raises `ValueError` for two topics with one name."""
        fields: dict[str, str] = {}
        for field in (name for name in type(self).model_fields if name.endswith("_topic")):
            topic: str = getattr(self, field)
            if (other := fields.setdefault(topic, field)) != field:
                raise ValueError(f"{variable(other)} and {variable(field)}: expected two topics, found {topic!r} twice")

    @property
    def aws_region(self) -> str | None:
        """The region for `AWS_MSK_IAM`, by default that of AWS' tools."""
        return self.kafka_aws_region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")

    def consumer_group(self, stage: str) -> str:
        """Name of the consumer group of a stage. That of `correlate` has commits, but no members."""
        return f"{self.group_prefix}-{'incidents' if stage == 'correlate' else stage}"

    @property
    def redis_url_safe(self) -> str:
        """URL of Redis without credentials, for messages."""
        return without_credentials(self.redis_url)

    @property
    def alertmanager_urls(self) -> tuple[str, ...]:
        """URLs of Alertmanager."""
        return tuple(self.alertmanager.split(",")) if self.alertmanager else ()

    @property
    def http_bind(self) -> tuple[str, int]:
        """Host and port to listen on."""
        return _host_and_port(self.http_address)

    @property
    def receive_bind(self) -> tuple[str, int]:
        """Host and port that `stormfold receive` listens on."""
        return _host_and_port(self.receive_address)

    @property
    def secrets(self) -> list[str]:
        """All credentials, so that the log can leave them out."""
        values = (getattr(self, name) for name in type(self).model_fields)
        return [value.get_secret_value() for value in values if isinstance(value, SecretStr)]

    @property
    def stage_names(self) -> tuple[str, ...]:
        """The stages to run, in the order of the pipeline."""
        return tuple(stage for stage in STAGES if stage in self.stages.split(","))


_EXPECTED = {
    "float_parsing": "expected seconds, such as 15",
    "int_parsing": "expected a whole number",
    "greater_than": "expected more than {gt:g}",
    "greater_than_equal": "expected at least {ge:g}",
    "less_than_equal": "expected at most {le:g}",
    "string_pattern_mismatch": "expected text that matches '{pattern}'",
    "path_not_file": "expected a file, there is none at {value}",
}
"""Messages by pydantic's error type; other types keep pydantic's message."""


def variable(field: str) -> str:
    """Environment variable of a field of `Settings`."""
    return PREFIX + field.upper()


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _settings_error(error: ValidationError) -> SettingsError:
    """The first problem in one line, without the value unless it is a path: it can be a credential."""
    problem = error.errors(include_url=False)[0]
    if expected := _EXPECTED.get(problem["type"]):
        text = expected.format(**problem.get("ctx", {}), value=problem["input"])
    else:
        text = problem["msg"].removeprefix("Value error, ").replace("Input should be", "expected", 1)
    return SettingsError(": ".join([*(variable(str(field)) for field in problem["loc"][:1]), text]))


def _reject_unknown(environment: "os._Environ[str]") -> None:
    known = {variable(field) for field in Settings.model_fields}
    for name, value in environment.items():
        if (
            name.upper().startswith(PREFIX)
            and name.upper() not in known
            and not _SERVICE_LINK.fullmatch(f"{name}={value}")
        ):
            near = _closest(name.upper().removeprefix(PREFIX).lower())
            raise SettingsError(
                f"{name}: unknown environment variable" + (f", the closest known one is {near}" if near else ""),
                hint="correct its name, or unset it; docs/reference/settings.md lists all variables",
            )


def _closest(name: str) -> str | None:
    """The variable of a field that begins with the name, is similar or has the same first word; None if none does."""
    fields = list(Settings.model_fields)
    near = (
        [field for field in fields if field.startswith(name)]
        # Below this similarity the common endings, such as _topic, decide.
        or difflib.get_close_matches(name, fields, n=1, cutoff=0.8)
        or [field for field in fields if field.split("_")[0] == name.split("_")[0]]
    )
    return variable(near[0]) if near else None
