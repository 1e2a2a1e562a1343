"""The HTTP server of `stormfold receive`: reads a body within limits, splits it, answers when Kafka has all of it."""

import asyncio
import os
import ssl
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import structlog
from aiohttp import web
from multidict import CIMultiDictProxy
from prometheus_client.aiohttp import make_aiohttp_handler

from stormfold import metrics
from stormfold.config import Config, ConfigError, ReloadableConfig
from stormfold.decoding import Poison
from stormfold.errors import ActionRequired, StormfoldError
from stormfold.formats import check_contents, parse
from stormfold.formats.mappings import Mappings
from stormfold.receive.credentials import Credentials
from stormfold.receive.delivery import Delivery, Headers, describe
from stormfold.receive.split import RECORD_BYTES, NotJSON, Split, TooLarge, split
from stormfold.settings import Settings
from stormfold.tls import ReloadingSSLContext

log = structlog.get_logger(__name__)

MAX_BODY_BYTES = 32 * 1024 * 1024
"""Largest body, unpacked: a webhook of some 20,000 alerts."""
MAX_HELD_BYTES = 128 * 1024 * 1024
"""Largest sum of the bodies in memory, or of their records where those are larger; beyond it requests get 503 and are
repeated by their senders."""
READ_SECONDS = 10.0
"""Longest that a sender may take to send its body."""
IN_THREAD_BYTES = 256 * 1024
"""Bodies above this size are split in a thread, so that others need not wait for them."""
SPLIT_WAIT_SECONDS = 3.0
"""Longest that such a body waits for others: its sender must have an answer before it repeats the request."""
CHECK_SECONDS = 1.0
"""Interval in which the configuration file is checked for changes, and Kafka for `/readyz`."""

NO_STORE = {"Cache-Control": "no-store"}
_OPEN = ("/healthz", "/readyz")
"""Paths that need no credentials: probes have none."""
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Receiver:
    """Takes alerts at `POST /alerts` and, as an Alertmanager does, at `POST /api/v2/alerts`.

    Answers 200 when Kafka has acknowledged everything, 400 for a body that is not JSON, 401, 413 for a body that is too
    large or, when all others are written, for alerts that are, or 503 when nothing more will be written for this
    request and the sender should repeat it.
    """

    def __init__(self, settings: Settings, config: Config) -> None:
        self._settings = settings
        self._configuration = ReloadableConfig(config, settings.config)
        self._mappings = Mappings(config.mappings)
        self._credentials = Credentials(settings.receive_token_file, settings.receive_users_file)
        self._delivery = Delivery(settings)
        self._expose = make_aiohttp_handler(metrics.RECEIVE_REGISTRY)
        self._held = 0
        self._splitting = asyncio.Lock()
        self._checking = asyncio.Lock()
        self._checked_at = float("-inf")
        self._problem: StormfoldError | None = None
        self._tls = _server_context(settings.receive_ssl_certfile, settings.receive_ssl_keyfile)
        self._reloading: asyncio.Task[None] | None = None
        self._runner: web.AppRunner | None = None

    @property
    def port(self) -> int:
        """The port in use; only after `start`."""
        assert self._runner is not None
        return int(self._runner.addresses[0][1])

    async def start(self) -> None:
        """Starts listening. Raises `ActionRequired` if the address cannot be used."""
        app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[self._guard])
        app.add_routes(
            [
                web.post("/alerts", self._receive),
                web.post("/api/v2/alerts", self._receive),
                web.get("/", self._index),
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._expose),
            ]
        )
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=self._settings.delivery_timeout)
        await runner.setup()
        host, port = self._settings.receive_bind
        try:
            await web.TCPSite(runner, host, port, ssl_context=self._tls, backlog=1024).start()
        except OSError as error:
            await runner.cleanup()
            raise ActionRequired(
                f"cannot listen on {host}:{port}: {os.strerror(error.errno or 0)}",
                "set STORMFOLD_RECEIVE_ADDRESS to another address; port 0 takes any free port",
            ) from error
        self._runner = runner
        self._reloading = asyncio.create_task(self._reload_changed_file())
        log.info("receiver started", address=f"{host}:{self.port}", topic=self._settings.alerts_topic)

    async def stop(self) -> None:
        """Answers the requests in hand, then closes everything."""
        if self._reloading is not None:
            self._reloading.cancel()
        try:
            if self._runner is not None:
                await self._runner.cleanup()
        finally:
            await self._delivery.stop()
        log.info("receiver stopped")

    @web.middleware
    async def _guard(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        if request.path not in _OPEN and not self._credentials.accepts(request.headers.get("Authorization")):
            challenge = {"WWW-Authenticate": "Bearer" if self._settings.receive_token_file else "Basic"}
            return web.Response(status=401, text="credentials are missing or wrong\n", headers=challenge)
        return await handler(request)

    async def _receive(self, request: web.Request) -> web.StreamResponse:
        started = time.perf_counter()
        held = [0]
        try:
            answer = await self._answer(request, held)
        finally:
            self._held -= held[0]
        metrics.RECEIVE_REQUESTS.labels(str(answer.status)).inc()
        metrics.RECEIVE_SECONDS.observe(time.perf_counter() - started)
        if answer.status >= 500:
            log.warning(
                "request not accepted", status=answer.status, path=request.path, reason=(answer.text or "").strip()
            )
        return answer

    async def _answer(self, request: web.Request, held: list[int]) -> web.Response:
        try:
            async with asyncio.timeout(READ_SECONDS):
                body = await self._read(request, held)
            headers = kafka_headers(request.headers)
            records, invalid, too_large = await self._split(body, headers)
            self._hold(held, max(0, sum(len(record) + RECORD_BYTES for record in records) - len(body)))
            if records:
                await self._delivery.send(records, headers)
        except TimeoutError:
            return _text(503, f"the body did not arrive within {READ_SECONDS:.0f} s; send it again")
        except _Busy:
            return _text(503, "too many bodies are being processed; send it again")
        except web.HTTPRequestEntityTooLarge:
            return _text(413, f"the body has more than {MAX_BODY_BYTES} bytes")
        except web.RequestPayloadError:
            # The rest of the body cannot be read, so the connection cannot be used again.
            request.content.feed_eof()
            answer = _text(400, "the body does not match its Content-Encoding")
            answer.force_close()
            return answer
        except TooLarge as error:
            return _text(413, f"the body is too large: {error}")
        except NotJSON as error:
            return _text(400, f"not JSON: {error}")
        except StormfoldError as error:
            return _text(503, describe(error))
        metrics.RECEIVE_RECORDS.inc(len(records))
        if too_large:
            # Senders do not repeat such a request, and may not log the answer.
            metrics.RECEIVE_ALERTS_TOO_LARGE.inc(len(too_large))
            log.warning("alerts are too large for a record and not written", alerts=too_large)
            return _text(413, "\n".join([*too_large, "all other alerts are written"]))
        return web.json_response({"records": len(records), "invalid": invalid})

    async def _read(self, request: web.Request, held: list[int]) -> bytes:
        body = bytearray()
        async for chunk in request.content.iter_any():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                raise web.HTTPRequestEntityTooLarge(MAX_BODY_BYTES, len(body))
            self._hold(held, len(chunk))
        return bytes(body)

    def _hold(self, held: list[int], size: int) -> None:
        self._held += size
        held[0] += size
        if self._held > MAX_HELD_BYTES:
            raise _Busy

    async def _split(self, body: bytes, headers: Headers) -> Split:
        now = time.time_ns() // 1_000_000

        def alerts_of(record: bytes) -> int | None:
            try:
                alerts = parse(record, headers, now, self._mappings)
                check_contents(alerts)
            except Poison:
                return None
            return len(alerts)

        if len(body) > IN_THREAD_BYTES:
            # One at a time: their records do not count as memory until they are complete.
            try:
                async with asyncio.timeout(SPLIT_WAIT_SECONDS):
                    await self._splitting.acquire()
            except TimeoutError:
                raise _Busy from None
            try:
                return await asyncio.to_thread(split, body, alerts_of)
            finally:
                self._splitting.release()
        return split(body, alerts_of)

    async def _index(self, _: web.Request) -> web.StreamResponse:
        return web.Response(text="POST alerts to /alerts, or as to an Alertmanager to /api/v2/alerts\n")

    async def _healthz(self, _: web.Request) -> web.StreamResponse:
        return web.json_response({"healthy": True}, headers=NO_STORE)

    async def _readyz(self, request: web.Request) -> web.StreamResponse:
        problem = await self._check()
        found = [{"component": "kafka", "problem": str(problem), "hint": problem.hint}] if problem else []
        body: dict[str, Any] = {"ready": problem is None}
        # Names of servers are only for those who may send.
        if self._credentials.accepts(request.headers.get("Authorization")):
            body["problems"] = found
        return web.json_response(body, status=503 if problem else 200, headers=NO_STORE)

    async def _check(self) -> StormfoldError | None:
        """The problem with Kafka, if any, which is asked at most once in `CHECK_SECONDS`."""
        async with self._checking:
            if time.monotonic() - self._checked_at >= CHECK_SECONDS:
                try:
                    await self._delivery.check()
                    self._problem = None
                except StormfoldError as error:
                    self._problem = error
                self._checked_at = time.monotonic()
            return self._problem

    async def reload(self) -> None:
        """Reads the configuration again. One that cannot be used is refused, and the one before applies."""
        file = str(self._configuration.path)
        if self._configuration.path is None:
            log.warning("no configuration file to reload", hint="start with --config FILE")
            return
        try:
            changes = await asyncio.to_thread(self._configuration.reload)
        except ConfigError as error:
            hint = f"correct it: `stormfold check {file}` shows every problem"
            log.warning("configuration refused, the one before applies", file=file, error=str(error), hint=hint)
            return
        if changes:
            self._mappings = Mappings(self._configuration.current.config.mappings)
            log.info("configuration reloaded", file=file, changed=changes)

    async def _reload_changed_file(self) -> None:
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            if self._configuration.path is not None and await asyncio.to_thread(self._configuration.changed):
                await self.reload()


class _Busy(Exception):
    """The bodies in memory reached their limit, or a body waited too long for others."""


def kafka_headers(headers: CIMultiDictProxy[str]) -> Headers:
    """The headers of the records: those of a CloudEvent, nothing else of the request.

    In HTTP their values are percent-encoded (CloudEvents HTTP binding, 3.1.3.2), in Kafka they are UTF-8. Bytes that
    are not UTF-8, which aiohttp decodes by `surrogateescape`, stay as they are.
    """
    found = [
        ("ce_" + name[3:].lower(), unquote_to_bytes(value.encode(errors="surrogateescape")))
        for name, value in headers.items()
        if name.lower().startswith("ce-")
    ]
    content_type = headers.get("Content-Type", "")
    if found or content_type.lower().startswith("application/cloudevents"):
        found.append(("content-type", content_type.encode(errors="surrogateescape")))
    return found


def _server_context(certfile: Path | None, keyfile: Path | None) -> ssl.SSLContext | None:
    if certfile is None:
        return None
    try:
        return ReloadingSSLContext(None, certfile, keyfile, ssl.Purpose.CLIENT_AUTH)
    except OSError as error:
        raise ActionRequired(
            f"cannot use the certificate {certfile}: {error}", "check STORMFOLD_RECEIVE_SSL_CERTFILE and …_KEYFILE"
        ) from error


def _text(status: int, text: str) -> web.Response:
    return web.Response(status=status, text=text + "\n")
