"""Types of settings: addresses, URLs, credentials, sizes. Validators raise `ValueError` with what was expected."""

import re
from ipaddress import IPv6Address
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

_HTTP_URL = re.compile(r"https?://([^\s:/?#@\[\],]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?(/[^\s?#,]*)?")
_ADDRESS = re.compile(r"(?P<host>[^\s:/@\[\],]+|\[[0-9A-Fa-f:.]+\]):(?P<port>[0-9]{1,5})")


def _address(value: str) -> str:
    found = _ADDRESS.fullmatch(value)
    if not found or int(found["port"]) > 65_535:
        raise ValueError(f"expected host:port, found {value!r}")
    return value


def _addresses(value: str) -> str:
    return ",".join(_address(address.strip()) for address in value.split(","))


def _http_url(value: str) -> str:
    url = value.strip().rstrip("/")
    if not _HTTP_URL.fullmatch(url):
        raise ValueError("expected http://HOST:PORT or https://HOST, without credentials, query or fragment")
    try:
        _check_host(url)
    except ValueError as error:
        raise ValueError(f"expected a host and a port that can exist, found {url!r}") from error
    return url


def _http_urls(value: str) -> str:
    return ",".join(_http_url(url) for url in value.split(","))


def _check_host(url: str) -> None:
    """Raises `ValueError` for a host or a port that no address can have, which would fail at each use of the URL."""
    parts = urlsplit(url)
    host, _port = parts.hostname or "", parts.port
    if "[" in parts.netloc:
        IPv6Address(host)
    else:
        host.encode("idna")


def _credential(value: Any) -> Any:
    # Editors and `echo` end a file with a newline, and a Secret made from files keeps it.
    if not isinstance(value, str):
        return value
    ended = next((end for end in ("\r\n", "\n") if value.endswith(end)), "")
    if ended and value == ended:
        raise ValueError("expected text, found an empty line")
    return value.removesuffix(ended)


Address = Annotated[str, AfterValidator(_address)]
"""`host:port`."""
Addresses = Annotated[str, AfterValidator(_addresses)]
"""Several, separated by commas."""
HttpUrl = Annotated[str, AfterValidator(_http_url)]
"""URL of a server."""
HttpUrls = Annotated[str, AfterValidator(_http_urls)]
"""Several, separated by commas."""
Topic = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,248}$")]
User = Annotated[str, BeforeValidator(_credential)]
Password = Annotated[SecretStr, BeforeValidator(_credential)]
Seconds = Annotated[float, Field(gt=0, le=3600)]
