"""The URL of Redis: what it may contain, where it leads, and how it is shown without credentials."""

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import parse_qsl, urlsplit

_USER = r"(?P<user>[^@/?#\[\]\s]*@)?"
_HOST = r"(?:[^\s:,/@?#\[\]]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?"
_QUERY = r"(\?(?P<query>[^#\s]*))?"
_SERVER = re.compile(rf"(?P<tls>rediss?)://{_USER}(?P<hosts>{_HOST})(?P<path>/[0-9]{{0,9}})?{_QUERY}")
_SOCKET = re.compile(rf"unix://{_USER}(?P<path>/[^@?#\s]+){_QUERY}")
_SENTINEL = re.compile(
    rf"(?P<tls>rediss?)\+sentinel://{_USER}(?P<hosts>{_HOST}(?:,{_HOST})*)/(?P<service>[A-Za-z0-9._-]+){_QUERY}"
)
_CLUSTER = re.compile(rf"(?P<tls>rediss?)\+cluster://{_USER}(?P<hosts>{_HOST}(?:,{_HOST})*)(?P<path>/0?)?{_QUERY}")
_EXPECTED = (
    "expected redis://HOST:PORT/DB, rediss:// for TLS, redis+sentinel://HOST:PORT,HOST:PORT/SERVICE,"
    " redis+cluster://HOST:PORT,HOST:PORT, or unix:///PATH; in a user name or password write / as %2F, ? as %3F,"
    " # as %23, @ as %40"
)
_SECONDS = r"(?!0+(\.0*)?$)[0-9]{1,6}(\.[0-9]{1,6})?"
_OPTIONS = {
    "client_name": r"[!-~]+",
    "db": r"[0-9]{1,9}",
    "health_check_interval": r"[0-9]{1,6}",
    "max_connections": r"[1-9][0-9]{0,5}",
    "password": r"(?s:.*)",
    "protocol": r"[23]",
    "socket_connect_timeout": _SECONDS,
    "socket_timeout": _SECONDS,
    "username": r"(?s:.*)",
}
"""Options allowed in the query, with the pattern of their values. Other options of the client would change the replies
that stormfold reads."""
_TCP_OPTIONS = {"socket_keepalive": r"(?i:true|false|yes|no|0|1)"}


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """Where a URL leads."""

    kind: Literal["server", "sentinel", "cluster"]
    hosts: tuple[tuple[str, int], ...]
    """The server, the Sentinels or some nodes of the cluster; empty for a socket."""
    service: str | None
    """What the Sentinels call the primary and its replicas."""
    client_url: str
    """Scheme, credentials, the first host and options, as the client reads them."""


def parse_redis_url(url: str) -> RedisAddress:
    """Raises `ValueError` without any part of the URL, because it can contain a password."""
    if found := _SOCKET.fullmatch(url):
        _validate_options(found["query"], _OPTIONS)
        return RedisAddress("server", (), None, _splittable(url))
    matches = ((kind, pattern.fullmatch(url), default_port) for kind, pattern, default_port in _KINDS)
    kind, found, default_port = next((match for match in matches if match[1]), ("server", None, 0))
    if found is None:
        raise ValueError(_EXPECTED)
    groups = found.groupdict()
    hosts = tuple(_host(host, default_port) for host in groups["hosts"].split(","))
    query = f"?{groups['query']}" if groups["query"] else ""
    urls = [f"{groups['tls']}://{groups['user'] or ''}{host}{groups.get('path') or ''}{query}"
            for host in groups["hosts"].split(",")]  # fmt: skip
    for one in urls:
        _splittable(one)
    options = _OPTIONS | _TCP_OPTIONS | ({"db": "0"} if kind == "cluster" else {})
    _validate_options(groups["query"], options)
    return RedisAddress(kind, hosts, groups.get("service"), urls[0])


_KINDS: tuple[tuple[Literal["server", "sentinel", "cluster"], re.Pattern[str], int], ...] = (
    ("server", _SERVER, 6379),
    ("sentinel", _SENTINEL, 26379),
    ("cluster", _CLUSTER, 6379),
)


def validate_redis_url(url: str) -> str:
    """Returns the URL; raises `ValueError` without any part of it, because it can contain a password."""
    parse_redis_url(url)
    return url


def without_credentials(url: str) -> str:
    """The URL without user name, password and options other than the database."""
    base, _, query = url.partition("?")
    scheme, _, rest = base.partition("://")
    database = dict(parse_qsl(query)).get("db")
    return f"{scheme}://{rest.rpartition('@')[2]}{'' if database is None else f'?db={database}'}"


def _host(text: str, default_port: int) -> tuple[str, int]:
    name, _, port = (text, "", "") if text.endswith("]") or ":" not in text else text.rpartition(":")
    # The client would replace port 0 by the default port.
    if port and not 0 < int(port) <= 65_535:
        raise ValueError(_EXPECTED)
    return name.strip("[]"), int(port or default_port)


def _validate_options(query: str | None, options: dict[str, str]) -> None:
    for name, option in parse_qsl(query or "", keep_blank_values=True):
        # An unknown name can be a part of a password, so it is not shown.
        if name not in options:
            known = ", ".join(sorted(options))
            raise ValueError(f"expected only these options after ?: {known}; in a password write ? as %3F")
        if not re.fullmatch(options[name], option):
            raise ValueError(f"expected another value for the option {name}")


def _splittable(url: str) -> str:
    """Raises `ValueError` for what the client cannot parse: a malformed IPv6 address, a character that normalizes to a
    separator."""
    try:
        urlsplit(url)
    except ValueError:
        raise ValueError(_EXPECTED) from None
    return url
