"""Three forms of an open storm: whole resources in Redis (A), compact JSON (B), and stormfold's fold (C).

A and B change a storm in a short Lua script, once for each alert; C folds polls. Each has a Redis of its own.
"""

import random
import time
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, Protocol

import msgspec
from redis.asyncio import Redis
from redis.exceptions import OutOfMemoryError

from stormfold.redis.close import Completion
from stormfold.redis.errors import RedisOutOfMemory
from tests.benchmarks.bench import percentile
from tests.benchmarks.folding import BEGIN, POLL, WINDOWS, Folding, NullSink, bodies, script_seconds
from tests.benchmarks.load import alert

MAX_STORMS_PER_CHUNK = 50
"""Storms of A and B that one call sets up. Times are of calls about one storm."""
ALERTS_KEPT = 40
"""Alerts that a whole resource holds in full: about 30 KB."""

Storm = dict[str, Any]

WHOLE = """
local storm, alert = cjson.decode(redis.call('GET', KEYS[1])), cjson.decode(ARGV[1])
local spec = storm.spec
spec.alertCount, spec.lastSeen = spec.alertCount + 1, ARGV[3]
local found = false
for _, resource in ipairs(spec.affectedResources) do
  if resource.name == ARGV[2] then
    resource.alerts, found = resource.alerts + 1, true
    break
  end
end
if not found then
  table.insert(spec.affectedResources, {kind = 'Pod', namespace = alert.labels.namespace, name = ARGV[2], alerts = 1})
end
table.insert(spec.alerts, alert)
if #spec.alerts > tonumber(ARGV[4]) then
  table.remove(spec.alerts, 1)
end
redis.call('SET', KEYS[1], cjson.encode(storm))
"""

COMPACT = """
local storm = cjson.decode(redis.call('GET', KEYS[1]))
storm.count, storm.last = storm.count + 1, ARGV[3]
local found = false
for _, resource in ipairs(storm.resources) do
  if resource == ARGV[2] then
    found = true
    break
  end
end
if not found then
  table.insert(storm.resources, ARGV[2])
end
redis.call('SET', KEYS[1], cjson.encode(storm))
"""


def whole(resources: int) -> Storm:
    """Returns a resource as a controller would keep it: every affected resource, and the last alerts in full."""
    name = "kubepodcrashlooping-3f9ac1d27b04e611"
    labels = {"stormfold.dev/class": "Storm", "stormfold.dev/route": "default", "stormfold.dev/severity": "critical"}
    alerts = [msgspec.json.decode(alert(one % resources, 0)) for one in range(ALERTS_KEPT)]
    for one, kept in enumerate(alerts):
        kept |= {
            "fingerprint": f"{one:016x}", "endsAt": "0001-01-01T00:00:00Z", "updatedAt": "2026-01-01T00:03:10.412Z",
            "generatorURL": "https://prometheus.example.com/graph?g0.expr=max_over_time%28kube_pod_container_status_"
            "waiting_reason%7Breason%3D%22CrashLoopBackOff%22%7D%5B5m%5D%29+%3E%3D+1&g0.tab=1",
        }  # fmt: skip
    return {
        "apiVersion": "stormfold.dev/v1alpha1",
        "kind": "AlertStorm",
        "metadata": {"name": name, "namespace": "storms", "generation": 1, "labels": labels},
        "spec": {
            "pattern": 'KubePodCrashLooping{cluster="prod-eu-west-1"}',
            "alertCount": ALERTS_KEPT,
            "firstSeen": "2026-01-01T00:00:00.000Z",
            "lastSeen": "2026-01-01T00:03:10.412Z",
            "affectedResources": [
                {"kind": "Pod", "namespace": f"payments-{one % 30}", "name": f"api-7d9f6c5b4-{one:07d}", "alerts": 1}
                for one in range(resources)
            ],
            "alerts": alerts,
        },
    }


def compact(resources: int) -> Storm:
    """Returns the five fields."""
    return {
        "pattern": 'KubePodCrashLooping{cluster="prod-eu-west-1"}',
        "count": ALERTS_KEPT,
        "resources": [f"api-7d9f6c5b4-{one:07d}" for one in range(resources)],
        "first": "2026-01-01T00:00:00.000Z",
        "last": "2026-01-01T00:03:10.412Z",
    }


class Sample(NamedTuple):
    """Seconds for one alert."""

    serialise: float
    deserialise: float
    redis: float
    p50: float
    p99: float
    alone: float
    """p50 of an alert in a call of its own."""


class Keeper(Protocol):
    """One form, with a Redis of its own."""

    name: str
    client: Redis

    def written(self, resources: int) -> int:
        """Returns the bytes that are written for one alert."""

    async def clear(self) -> None:
        """Deletes everything."""

    async def open(self, resources: int, first: int, count: int, window: int = 0) -> None:
        """Opens `count` storms from number `first` on. Raises `RedisOutOfMemory` if Redis refuses one."""

    async def close(self, count: int) -> None:
        """Closes `count` storms."""

    async def opened(self) -> int:
        """Returns the number of open storms."""

    async def sample(self, resources: int, storms: int, calls: int) -> Sample:
        """Measures alerts about open storms, starting from an empty Redis."""


class Json:
    """Storms as JSON values that a script changes."""

    def __init__(self, name: str, make: Callable[[int], Storm], script: str, client: Redis) -> None:
        self.name = name
        self.client = client
        self._make = make
        self._script = client.register_script(script)

    def written(self, resources: int) -> int:
        return len(msgspec.json.encode(self._make(resources)))

    async def clear(self) -> None:
        await self.client.flushall()

    async def open(self, resources: int, first: int, count: int, window: int = 0) -> None:
        value = msgspec.json.encode(self._make(resources))
        for begin in range(first, first + count, MAX_STORMS_PER_CHUNK):
            some = range(begin, min(begin + MAX_STORMS_PER_CHUNK, first + count))
            try:
                await self.client.mset({f"storm:{window}:{number}": value for number in some})
            except OutOfMemoryError as error:
                raise RedisOutOfMemory(str(error)) from error

    async def close(self, count: int) -> None:
        keys = await self.client.keys("storm:*")
        for number, key in enumerate(keys[:count]):
            # Some are deleted, some expire.
            await (self.client.delete(key) if number % 2 else self.client.pexpire(key, 1))

    async def opened(self) -> int:
        return int(await self.client.dbsize())

    async def sample(self, resources: int, storms: int, calls: int) -> Sample:
        await self.clear()
        await self.open(resources, 0, storms)
        rng = random.Random(calls)
        storm = self._make(resources)
        value = msgspec.json.encode(storm)
        times = []
        before = await script_seconds(self.client)
        for _ in range(calls):
            one = rng.randrange(resources)
            keys = [f"storm:0:{rng.randrange(storms)}"]
            args: list[bytes | bytearray | memoryview[int] | str | int | float] = [
                alert(one, 0),
                f"api-7d9f6c5b4-{one:07d}",
                "2026-01-01T00:03:11.000Z",
                ALERTS_KEPT,
            ]
            begin = time.perf_counter()
            await self._script(keys, args)
            times.append(time.perf_counter() - begin)
        median = percentile(times, 0.5)
        return Sample(
            _timed(lambda: msgspec.json.encode(storm)),
            _timed(lambda: msgspec.json.decode(value)),
            (await script_seconds(self.client) - before) / calls,
            median,
            percentile(times, 0.99),
            median,
        )


class Fold:
    """stormfold's fold. A call is a poll of `POLL` alerts; times are those of a poll divided by `POLL`."""

    name = "C, fold"

    def __init__(self, client: Redis) -> None:
        self.client = client
        self._folding: Folding
        self._window = 0

    def written(self, resources: int) -> int:  # noqa: ARG002
        return len(bodies([alert(0, 0)])[0])

    async def clear(self) -> None:
        self._folding = await Folding.open(self.client)

    async def open(self, resources: int, first: int, count: int, window: int = 0) -> None:
        storm = self._folding.storm(_bodies(resources, 1))
        self._window = window
        await self._folding.open_storms(storm, first, count, BEGIN + window * WINDOWS.gap)

    async def close(self, count: int) -> None:
        store, version = self._folding.store, self._folding.version
        # After the newest window and before the next one.
        horizon = BEGIN + self._window * WINDOWS.gap + WINDOWS.grace + 10
        _, claimed = await store.claim(version, horizon, min_marks=0, limit=count, token="t", lease=60_000)
        await store.complete(version, "t", [Completion(group.group, group.buckets, 0, 0) for group in claimed])

    async def opened(self) -> int:
        return (await self._folding.store.clock(self._folding.version)).open_groups

    async def sample(self, resources: int, storms: int, calls: int) -> Sample:
        await self.clear()
        known = _bodies(resources, storms)
        for begin in range(0, len(known), POLL):
            await self._folding.poll(known[begin : begin + POLL])
        rng = random.Random(calls)
        before = await script_seconds(self.client)
        polls = [await self._folding.poll(rng.choices(known, k=POLL)) for _ in range(max(4, calls // 8))]
        redis = (await script_seconds(self.client) - before) / len(polls) / POLL
        alone = [await self._folding.poll([rng.choice(known)]) for _ in range(calls)]
        # The client's share: the time of a poll without Redis.
        unanswered = Folding(NullSink(), merger=self._folding.merger)
        packed = [await unanswered.poll(rng.choices(known, k=POLL)) for _ in range(8)]
        each = [(poll.merge + poll.fold) / POLL for poll in polls]
        return Sample(
            percentile([poll.fold / POLL for poll in packed], 0.5),
            percentile([poll.merge / POLL for poll in packed], 0.5),
            redis,
            percentile(each, 0.5),
            percentile(each, 0.99),
            percentile([poll.merge + poll.fold for poll in alone], 0.5),
        )


@cache
def _bodies(resources: int, storms: int) -> list[bytes]:
    return bodies(alert(one, group) for group in range(storms) for one in range(resources))


def _timed(act: Callable[[], object], times: int = 50) -> float:
    begin = time.perf_counter()
    for _ in range(times):
        act()
    return (time.perf_counter() - begin) / times
