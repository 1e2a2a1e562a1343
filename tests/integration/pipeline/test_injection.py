"""Alerts that try to break out of keys, files, logs and pages: they are treated as text at every step."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from markupsafe import escape
from redis.asyncio import Redis

from stormfold.local.process import free_port
from stormfold.manifest import from_manifest
from stormfold.redis.layout import NUMBER, Keys
from stormfold.settings import Settings
from tests.support.alerts import Sent
from tests.support.cli import stormfold
from tests.support.pipeline import Pipeline, assert_balanced
from tests.support.servers import until

MARKUP = "<script>alert(1)</script>"
HOSTILE = (
    *(MARKUP, '"><img src=x onerror=alert(1)>', "</bdi></table><h1>Other page</h1>"),
    *("{0}:epoch", "*:b:*", "b:0:1\r\n*1\r\n$8\r\nFLUSHALL\r\n", "\"..redis.call('FLUSHALL')..\"", "]] os.exit() --"),
    *("../../../etc/passwd", "/etc/passwd", "C:\\storms\\..\\x", "$(touch owned)", "`touch owned`; touch owned"),
    *("a\0b", "\x1b[2J\x1b]0;owned\x07", "\x9b31m\x08\x7f", "\u202egnp.exe", 'line\n{"level": "error"}\r\n'),
    *("---\nkind: Secret\n...\n", "!!python/object/apply:os.system ['touch owned']", "*alias", "&anchor", "<<"),
    *("{{ 7 * 7 }}", "{% raw %}", "%s%n%(name)s", "{0.__class__.__mro__}", "__proto__", "[red]rich[/]", "x" * 400),
)
"""Each alert has one of these as every label, annotation, fingerprint, key and header; its severity is `MARKUP`."""


def hostile(text: str) -> dict[str, Any]:
    """Returns an alert with this text in every field."""
    labels = dict.fromkeys(("alertname", "cluster", "namespace", "pod", text), text) | {"severity": MARKUP}
    return {"labels": labels, "annotations": {"summary": text, text: text}, "fingerprint": text, "endsAt": ""}


def sent(time: int, value: bytes) -> Sent:
    """Returns a record whose key and headers repeat its value."""
    return Sent(time, value, time % 3, value[:99], ((str(value[:99]), value), ("stormfold-reason", value)))


async def foreign_keys(redis: Redis, settings: Settings) -> set[bytes]:
    """Returns the keys that stormfold does not use."""
    keys = Keys(settings.redis_prefix)
    version = keys.of(int(await redis.hget(keys.state_version, NUMBER) or 0))
    group = "[A-Za-z0-9_-]{20}"
    fixed: tuple[str, ...] = (
        keys.state_version,
        keys.intake,
        version.positions,
        version.source_positions,
        version.marks,
        version.due,
        version.open_since,
    )
    forms = [
        *map(re.escape, fixed), re.escape(version.group_prefix) + group, re.escape(version.lease_prefix) + group,
        re.escape(version.bucket_prefix) + group + r":\d+(:\d+)?",
    ]  # fmt: skip
    found: list[Any] = await redis.keys()
    return {key for key in found if not re.fullmatch("|".join(forms), key.decode())}


async def page(address: str) -> str:
    """Returns the status page as soon as it shows groups or storms."""

    async def shown() -> str | None:
        async with aiohttp.ClientSession() as session, session.get(f"http://{address}/") as answer:
            html = await answer.text()
        return html if escape(MARKUP) in html else None

    found: str = await until(shown, what="the severity is shown")
    return found


def tree(folder: Path) -> set[str]:
    """Returns the paths of everything below the folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def logged(folder: Path) -> list[Any]:
    """Returns every line of the workers' logs, decoded as JSON."""
    return [json.loads(line) for path in folder.glob("*.log") for line in path.read_bytes().strip().split(b"\n")]


async def test_hostile_text_breaks_out_of_nothing(pipeline: Pipeline, redis: Redis, tmp_path: Path, past: int) -> None:
    """Redis keys, manifests, file names, log lines, terminal and status page are as intact as with plain alerts."""
    settings = pipeline.settings
    pipeline.configure("routes: [{name: all, group_by: ['...'], storm_when: {alerts: 1}}]\n")
    good = [(past + n, hostile(text)) for n, text in enumerate(HOSTILE)]
    bad = [value for text in HOSTILE for value in (text.encode(), json.dumps({"labels": {text: 1}}).encode())]
    await pipeline.publish([sent(time, json.dumps(alert).encode()) for time, alert in good])
    await pipeline.publish([sent(past + n, value) for n, value in enumerate(bad)])
    await redis.set("somebody", "else's")

    # Without the stage close, everything stays open and can be examined.
    here = f"127.0.0.1:{free_port()}"
    pipeline.start(stages="intake,fold", http_address=here, log_level="debug")
    assert_balanced(await pipeline.audit(), open=len(good), dead_letters=len(bad))
    assert await foreign_keys(redis, settings) == {b"somebody"}
    forming = await page(here)

    folder = tmp_path / "storms"
    pipeline.start(stages="close,emit", sink=f"directory:{folder}", log_level="debug")
    await pipeline.drained(aggregated=len(good), dead_letters=len(bad))
    assert await foreign_keys(redis, settings) == {b"somebody"} and await redis.get("somebody") == b"else's"

    published = await pipeline.aggregates()
    assert await pipeline.counts() == pipeline.model(good)
    files = {f"storms.{name}.yaml" for name in published}
    await until(
        lambda: {name for name in tree(folder) if not name.startswith(".")} == files, what="all manifests are written"
    )
    assert {name for name in tree(tmp_path) if not name.startswith("storms/")} == {
        "stormfold.yaml", "storms", "worker-0.log", "worker-1.log",
    }  # fmt: skip
    manifests = [yaml.safe_load(path.read_bytes()) for path in folder.iterdir()]
    assert {m["metadata"]["name"]: from_manifest(m) for m in manifests} == published
    texts = [(m["spec"]["groupLabels"], m["spec"]["example"]["annotations"]["summary"]) for m in manifests]
    assert [text for text in HOSTILE if (hostile(text)["labels"], text) not in texts] == []

    lines = logged(tmp_path)
    assert all(isinstance(line, dict) and line["level"] for line in lines)
    assert sum(line["message"] == "dead letter" for line in lines) == len(bad)

    for html in (forming, await page(here)):
        assert not any(text in html for text in HOSTILE if "<" in text and ">" in text)
        assert html.replace("\n", "").replace("\xa0", "").isprintable()

    answers = await asyncio.gather(
        stormfold(settings, "storms", "--limit", "1000"),
        stormfold(settings, "storms", "--limit", "1000", "-o", "yaml"),
        stormfold(settings, "dlq", "--limit", "1000"),
        stormfold(settings, "dlq", "--limit", "1000", "-o", "json"),
        stormfold(settings, "status"),
    )
    rows = [answer.stdout.count("\n") for answer in answers]
    assert rows[0] == 1 + len(good) and rows[2] == 1 + len(bad)
    assert len(yaml.safe_load(answers[1].stdout)["items"]) == len(good) and len(json.loads(answers[3].stdout)) == len(
        bad
    )
    assert all((answer.stdout + answer.stderr).replace("\n", "").isprintable() for answer in answers)
