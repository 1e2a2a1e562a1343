"""Announce: posts incidents that are still open to Alertmanager. Best effort: no count depends on it, nothing waits."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

import msgspec
import structlog

from stormfold import metrics
from stormfold.announce.alertmanager import Alertmanager
from stormfold.announce.notice import ALERTNAME, Firing, Look, Notices
from stormfold.config import ReloadableConfig
from stormfold.correlation import Correlation
from stormfold.errors import StormfoldError
from stormfold.health import Health
from stormfold.redis.open_groups import OpenSegments
from stormfold.redis.store import Store
from stormfold.scope import ANNOUNCED_LABEL, ScopeKey
from stormfold.settings import Settings
from stormfold.times import to_milliseconds

log = structlog.get_logger(__name__)

LOOK_INTERVAL = 5.0
"""Seconds between two looks at the open groups; with small windows half of their gap."""
POST_INTERVAL = 10.0
"""Seconds after which everything that fires is posted again; changes are posted at once."""
REPEAT_SECONDS = 600.0
"""Longest time for which what fires is posted without the lease."""
MAX_GROUPS = 200
"""Largest open groups that can be announced."""


class Announcer:
    """The announcements of the worker that holds the lease of correlate. It learns what fires when it begins."""

    name = "announce"

    def __init__(self, settings: Settings, configuration: ReloadableConfig, store: Store, health: Health) -> None:
        self._configuration = configuration
        self._store = store
        self._health = health
        self._alertmanager = Alertmanager(settings)
        self._instances = settings.alertmanager_urls
        self._lasts = round((settings.close_lease + 3 * POST_INTERVAL) * 1000)
        """Milliseconds after which an incident resolves if no worker posts it again: the lease and three posts."""
        self._link = settings.external_url
        self._pipeline = ""
        self._notices = Notices(self._link, self._pipeline)
        self._segments = OpenSegments(store, MAX_GROUPS, configuration.current.config.max_resources)
        self._kept: Mapping[bytes, bytes] = {}
        """What Redis has of the incidents that fire."""
        self._next_look = self._next_post = 0.0
        self._updated = float("-inf")
        """When what fires was last read or decided (monotonic, s)."""
        self._posting: asyncio.Task[None] | None = None
        self._asked: asyncio.Task[Sequence[Mapping[str, Any]]] | None = None
        """The question to Alertmanager, until its answer is taken over."""

    async def begin(self, pipeline: str) -> None:
        """Reads from Redis what fires: another worker has announced it. If nothing does, asks Alertmanager.

        Others may post to it, too: only incidents of this `pipeline` are taken over.
        The answer may take seconds, and publishing incidents does not wait for it: `update` takes it over.
        Raises `Retry` or `ActionRequired` if Redis does not answer: without it, incidents that are over would fire.
        """
        self._pipeline = pipeline
        self._notices = Notices(self._link, self._pipeline)
        self._next_look = self._next_post = 0.0
        self._updated = time.monotonic()
        self._kept = await self._store.announced()
        for scope, value in self._kept.items():
            with suppress(msgspec.DecodeError):
                if (firing := Firing.decode(value)) is not None:
                    self._notices.firing[_scope.decode(scope)] = firing
        if self._notices.firing:
            self._cancel_question()
            self._log_takeover()
        elif self._instances and (self._asked is None or self._asked.done()):
            self._asked = asyncio.create_task(self._ask())

    async def look(self) -> Look | None:
        """The open groups, if it is time for another look; None also if Redis does not answer.

        It must come before the ends of `storms` are read: a group that is closed since is found there.
        """
        if time.monotonic() < self._next_look:
            return None
        with suppress(StormfoldError):
            version = await self._store.version()
            if version is not None:
                self._next_look = time.monotonic() + min(LOOK_INTERVAL, version.windows.gap / 2000)
                watermark, segments = await self._segments.look(version)
                if watermark is not None:
                    return Look(watermark, segments)
        return None

    async def update(self, look: Look | None, closed_before: int | None, correlation: Correlation) -> None:
        """Decides what fires, and posts what changed; everything at intervals. Posting runs in the background.

        Nothing is decided while Alertmanager is asked: an incident that fires there must not be announced once more.
        """
        if self._asked is not None:
            self._next_look = 0.0
            if not self._asked.done():
                return
            self._take_over(self._asked.result())
            self._asked = None
        before = dict(self._notices.firing)
        self._notices.update(look, closed_before, correlation, time.time_ns() // 1_000_000)
        self._updated = time.monotonic()
        firing = self._notices.firing
        metrics.INCIDENTS_FIRING.set(len(firing))
        for scope in firing.keys() - before.keys():
            log.info("incident announced", labels=firing[scope].labels, incident=firing[scope].annotations["incident"])
        for scope in before.keys() - firing.keys():
            log.info("announced incident is over", labels=before[scope].labels)
        if {scope: one.labels for scope, one in before.items()} != {s: one.labels for s, one in firing.items()}:
            self._next_post = 0.0
        if self._is_post_due():
            await self._keep()
            self._post_all()

    def _is_post_due(self) -> bool:
        return time.monotonic() >= self._next_post and (self._posting is None or self._posting.done())

    def _post_all(self) -> None:
        self._next_post = time.monotonic() + POST_INTERVAL
        if self._instances:
            alerts = self._notices.alerts(time.time_ns() // 1_000_000, self._lasts)
            self._posting = asyncio.create_task(self._post(alerts))

    @property
    def firing(self) -> Mapping[ScopeKey, Firing]:
        """The announced incidents that are open, by scope."""
        return self._notices.firing

    def repeat(self) -> None:
        """Posts everything that fires while Redis or Kafka does not answer, but not for ever: others may answer.

        Redis keeps its entries: they belong to the next holder of the lease, which may be this worker.
        """
        if time.monotonic() - self._updated > REPEAT_SECONDS:
            self.end()
        elif self._is_post_due():
            self._post_all()

    def end(self) -> None:
        """Forgets everything: another worker has the lease, or may have it."""
        self._cancel_question()
        self._notices = Notices(self._link, self._pipeline)
        metrics.INCIDENTS_FIRING.set(0)
        self._health.clear_warning(self.name)

    async def stop(self) -> None:
        """Ends requests in progress and closes connections. Whatever fires stays: another worker continues."""
        requests = [task for task in (self._asked, self._posting) if task is not None]
        self._asked = None
        for task in requests:
            task.cancel()
        await asyncio.gather(*requests, return_exceptions=True)
        await self._alertmanager.close()

    async def _keep(self) -> None:
        """Writes what fires to Redis for the next holder, as far as Redis takes it."""
        encode = msgspec.json.encode
        kept = {encode(scope): encode(one) for scope, one in self._notices.firing.items()}
        if kept == self._kept:
            return
        with suppress(StormfoldError):
            await self._store.keep_announced(kept, self._kept.keys() - kept.keys())
            self._kept = kept

    async def _post(self, alerts: list[dict[str, Any]]) -> None:
        if not alerts:
            self._health.clear_warning(self.name)
            return
        try:
            problems = await self._alertmanager.post(alerts)
        except Exception as error:
            problems = {"announce": str(error) or type(error).__name__}
            log.exception("cannot post to Alertmanager")
        metrics.ANNOUNCE_POSTS.inc()
        if not problems:
            self._health.clear_warning(self.name)
            return
        metrics.ANNOUNCE_ERRORS.inc(len(problems))
        text = "; ".join(f"{instance}: {problem}" for instance, problem in sorted(problems.items()))
        hint = "check STORMFOLD_ALERTMANAGER and Alertmanager's log; incidents are announced late or not at all"
        if self._health.set_warning(self.name, f"Alertmanager does not take alerts: {text}", hint):
            log.warning("Alertmanager does not take alerts", problems=problems)

    async def _ask(self) -> Sequence[Mapping[str, Any]]:
        """The announced incidents that fire in Alertmanager; none if it does not answer."""
        try:
            return await self._alertmanager.firing({"alertname": ALERTNAME, **dict([ANNOUNCED_LABEL])}) or ()
        except Exception:
            log.exception("cannot ask Alertmanager which incidents are announced")
            return ()

    def _cancel_question(self) -> None:
        if self._asked is not None:
            self._asked.cancel()
            self._asked = None

    def _take_over(self, alerts: Sequence[Mapping[str, Any]]) -> None:
        for alert in alerts:
            with suppress(LookupError, TypeError, ValueError, AttributeError):
                self._adopt(alert)
        if self._notices.firing:
            self._log_takeover()

    def _log_takeover(self) -> None:
        log.info("announced incidents taken over", incidents=len(self._notices.firing))

    def _adopt(self, alert: Mapping[str, Any]) -> None:
        """Takes over an announced incident from Alertmanager's list, if it is of this pipeline."""
        labels, annotations = alert["labels"], alert["annotations"]
        if annotations["pipeline"] != self._pipeline:
            return
        own = ("alertname", ANNOUNCED_LABEL[0], "severity")
        scope = tuple(sorted((name, value) for name, value in labels.items() if name not in own))
        config = self._configuration.current.config
        severities, severity, rules = config.severities, labels.get("severity", ""), config.incidents
        self._notices.firing[scope] = Firing(
            labels=labels,
            annotations=annotations,
            rank=severities.index(severity) if severity in severities else len(severities),
            severity=severity,
            starts_at=to_milliseconds(datetime.fromisoformat(alert["startsAt"])),
            last=to_milliseconds(datetime.fromisoformat(annotations["lastAlert"])),
            gap=rules.gap if rules else 0,
        )


_scope = msgspec.json.Decoder(tuple[tuple[str, str], ...])
