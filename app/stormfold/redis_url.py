"""The URL of Redis: what it may contain, and how it is shown without credentials."""

import re
from urllib.parse import parse_qsl, urlsplit

_URL = re.compile(
    r"rediss?://([^@/?#\[\]\s]*@)?([^\s:/@?#\[\]]+|\[[0-9A-Fa-f:.]+\])(:(?P<port>[0-9]{1,5}))?(/[0-9]{0,9})?"
    r"(\?(?P<query>[^#\s]*))?"
    r"|(?P<unix>unix)://([^@/?#\[\]\s]*@)?/[^@?#\s]+(\?(?P<unix_query>[^#\s]*))?"
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


def validate_redis_url(url: str) -> str:
    """Returns the URL; raises `ValueError` without any part of it, because it can contain a password."""
    found = _URL.fullmatch(url)
    # The client would replace port 0 by the default port.
    if not found or not 0 < int(found["port"] or 6379) <= 65_535 or not _can_be_split(url):
        raise ValueError(
            "expected redis://HOST:PORT/DB, rediss:// for TLS, or unix:///PATH; in a user name or password write / as"
            " %2F, ? as %3F, # as %23, @ as %40"
        )
    options = _OPTIONS if found["unix"] else _OPTIONS | _TCP_OPTIONS
    for name, option in parse_qsl(found["query"] or found["unix_query"] or "", keep_blank_values=True):
        # An unknown name can be a part of a password, so it is not shown.
        if name not in options:
            known = ", ".join(sorted(options))
            raise ValueError(f"expected only these options after ?: {known}; in a password write ? as %3F")
        if not re.fullmatch(options[name], option):
            raise ValueError(f"expected another value for the option {name}")
    return url


def without_credentials(url: str) -> str:
    """The URL without user name, password and options."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def _can_be_split(url: str) -> bool:
    """Whether the client can parse it: no malformed IPv6 address, no character that normalizes to a separator."""
    try:
        urlsplit(url)
    except ValueError:
        return False
    return True
