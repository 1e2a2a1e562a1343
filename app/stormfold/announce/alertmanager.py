"""Posts alerts to every instance of Alertmanager, and reads which fire. An instance that is away delays no other."""

import asyncio
import ssl
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import aiohttp
import msgspec

from stormfold.decoding import Malformed, decode_untrusted
from stormfold.errors import ActionRequired
from stormfold.settings import Settings
from stormfold.tls import ReloadingSSLContext

TIMEOUT = 5.0
"""Seconds for one request, with the connection."""
MAX_BODY = 64 * 1024
"""Bytes of alerts in one request."""
MAX_REPLY = 4 * 1024 * 1024
"""Bytes that are read of a reply."""

Alert = dict[str, Any]
"""A `postableAlert` of Alertmanager's API v2: labels, annotations, startsAt, endsAt, generatorURL."""


_alerts = msgspec.json.Decoder(list[dict[str, Any]])


class Instance(NamedTuple):
    """One address of an Alertmanager."""

    url: str
    """As configured, without the path of the API."""
    address: str
    """IP address and port that the request goes to."""


class Alertmanager:
    """All instances that `STORMFOLD_ALERTMANAGER` names: every address of each name, as of each request.

    Raises `ActionRequired` at the beginning if a file for TLS is not valid.
    """

    def __init__(self, settings: Settings) -> None:
        self._urls = settings.alertmanager_urls
        self._token_file = settings.alertmanager_token_file
        self._username, self._password_file = settings.alertmanager_username, settings.alertmanager_password_file
        self._context: ssl.SSLContext | None = None
        files = (
            settings.alertmanager_ssl_cafile,
            settings.alertmanager_ssl_certfile,
            settings.alertmanager_ssl_keyfile,
        )
        if any(url.startswith("https://") for url in self._urls):
            try:
                self._context = ReloadingSSLContext(*files)
            except OSError as error:
                raise ActionRequired(
                    f"the files for TLS with Alertmanager are not valid: {error}",
                    "correct the files of STORMFOLD_ALERTMANAGER_SSL_*",
                ) from error
        self._session: aiohttp.ClientSession | None = None

    async def post(self, alerts: Sequence[Alert]) -> dict[str, str]:
        """Posts to every instance at the same time; returns the problem of each that did not take all, by instance."""
        bodies = list(_bodies(alerts))
        instances, problems = await self._instances()
        results = await asyncio.gather(*(self._post_all(instance, bodies) for instance in instances))
        failed = {_name(one): problem for one, problem in zip(instances, results, strict=True) if problem}
        return problems | failed

    async def firing(self, matchers: Mapping[str, str]) -> list[dict[str, Any]] | None:
        """The alerts with these labels, from the first instance that has any; None if none answers.

        All are asked at once: they do not share their alerts, and one that was just started has none.
        It takes at most twice `TIMEOUT`: once for the addresses, once for the answers.
        """
        query = [("active", "true"), *(("filter", f'{name}="{value}"') for name, value in matchers.items())]
        asked = [asyncio.create_task(self._list(one, query)) for one in (await self._instances())[0]]
        found = None
        try:
            for answer in asyncio.as_completed(asked):
                if listed := await answer:
                    return listed
                found = found if listed is None else listed
            return found
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)

    async def close(self) -> None:
        """Closes connections."""
        if self._session is not None:
            await self._session.close()

    async def _instances(self) -> tuple[list[Instance], dict[str, str]]:
        """Every address of every name, and the names that cannot be resolved with the reason."""
        results = await asyncio.gather(*map(_resolve, self._urls))
        found = [instance for result in results if not isinstance(result, str) for instance in result]
        problems = {url: result for url, result in zip(self._urls, results, strict=True) if isinstance(result, str)}
        return found, problems

    async def _list(self, instance: Instance, query: Sequence[tuple[str, str]]) -> list[dict[str, Any]] | None:
        """The alerts that the query finds on an instance; None if it does not answer with a list of alerts."""
        with suppress(aiohttp.ClientError, OSError, TimeoutError, Malformed, ActionRequired):
            async with self._request("GET", instance, params=query) as response:
                if response.status == 200:
                    return decode_untrusted(_alerts.decode, await _read_body(response))
        return None

    async def _post_all(self, instance: Instance, bodies: Sequence[bytes]) -> str | None:
        """The problem of the instance; None if it took every body."""
        for body in bodies:
            try:
                async with self._request("POST", instance, data=body) as response:
                    if response.status != 200:
                        text = (await response.content.read(500)).decode(errors="replace").strip()
                        return f"{response.status} {text}".strip()
            except (aiohttp.ClientError, OSError, TimeoutError, ActionRequired) as error:
                return _reason(error)
        return None

    def _request(self, method: str, instance: Instance, **more: Any) -> Any:
        parts = urlsplit(instance.url)
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=TIMEOUT), auto_decompress=True, trust_env=False
            )
        headers = {"Host": parts.netloc.rpartition("@")[2], "Content-Type": "application/json"} | self._authorization()
        target = f"{parts.scheme}://{instance.address}:{_port(instance.url)}{parts.path.rstrip('/')}/api/v2/alerts"
        tls: dict[str, Any] = (
            {"ssl": self._context, "server_hostname": parts.hostname} if parts.scheme == "https" else {}
        )
        return self._session.request(method, target, headers=headers, allow_redirects=False, **tls, **more)

    def _authorization(self) -> dict[str, str]:
        """The files are read for each request, so that new credentials count at once."""
        if self._token_file is not None:
            return {"Authorization": f"Bearer {_read(self._token_file)}"}
        if self._username is not None and self._password_file is not None:
            pair = f"{self._username}:{_read(self._password_file)}"
            return {"Authorization": f"Basic {b64encode(pair.encode()).decode()}"}
        return {}


async def _resolve(url: str) -> list[Instance] | str:
    """Every address of the name in a URL; the reason if it cannot be resolved."""
    host = urlsplit(url).hostname
    try:
        async with asyncio.timeout(TIMEOUT):
            infos = await asyncio.get_running_loop().getaddrinfo(host, _port(url), type=1)
    except (OSError, TimeoutError) as error:
        return f"{host}: {_reason(error)}"
    hosts = sorted({str(info[4][0]) for info in infos})
    return [Instance(url, f"[{host}]" if ":" in host else host) for host in hosts]


def _bodies(alerts: Sequence[Alert]) -> Iterator[bytes]:
    """JSON lists of at most `MAX_BODY` bytes; an alert that is larger on its own is left out."""
    part: list[bytes] = []
    size = 2
    for alert in alerts:
        encoded = msgspec.json.encode(alert)
        if part and size + len(encoded) + 1 > MAX_BODY:
            yield b"[" + b",".join(part) + b"]"
            part, size = [], 2
        if len(encoded) + 2 <= MAX_BODY:
            part.append(encoded)
            size += len(encoded) + 1
    if part:
        yield b"[" + b",".join(part) + b"]"


async def _read_body(response: aiohttp.ClientResponse) -> bytes:
    """The body of a reply up to `MAX_REPLY` bytes."""
    body = bytearray()
    async for part in response.content.iter_any():
        body += part
        if len(body) > MAX_REPLY:
            break
    return bytes(body)


def _name(instance: Instance) -> str:
    host = urlsplit(instance.url).hostname or ""
    return instance.url if instance.address.strip("[]") == host else f"{instance.url} ({instance.address})"


def _port(url: str) -> int:
    parts = urlsplit(url)
    return parts.port or (443 if parts.scheme == "https" else 80)


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ActionRequired(f"cannot read {path}: {error}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {TIMEOUT:g} s"
    return str(error) or type(error).__name__
