"""The webhook configuration of docs/how-to/alertmanager.md, run with a real Alertmanager and `stormfold receive`."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from stormfold.alert import Alert
from stormfold.decoding import decode_labels
from stormfold.formats import parse
from stormfold.settings import Settings
from tests.integration.deploy.test_docs import blocks
from tests.integration.receive.test_receive import receiving
from tests.integration.security.certificates import Authority
from tests.support.alertmanager import Alertmanager, program
from tests.support.gobuild import built
from tests.support.pipeline import read_topic
from tests.support.servers import until

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "alertmanager.md"
SECONDS = 60
LABELS = [
    {"alertname": "NodeDown", "cluster": "eu-1", "node": "worker-7", "severity": "critical"},
    {"alertname": "PodCrashLooping", "cluster": "eu-1", "namespace": "payments", "pod": "api-7d9f6"},
    {"alertname": "Größe", "path": '/mnt/"a", b'},
]
USUAL = "http://127.0.0.1:9095/alerts"


async def arrived(settings: Settings) -> list[Alert]:
    """Returns the alerts in the topic, as intake parses them."""
    records = await read_topic(settings, settings.alerts_topic)
    return [alert for one in records for alert in parse(one.value, one.headers, one.timestamp)]


@pytest.mark.parametrize("secured", [False, True], ids=["plain", "with TLS and a token"])
async def test_firing_and_resolved_alerts_arrive_with_the_fingerprints_of_alertmanager(
    topics: Settings, request: pytest.FixtureRequest, tmp_path: Path, secured: bool
) -> None:
    """Also when the receiver was away at first: Alertmanager repeats the request."""
    await asyncio.to_thread(built, request.config, program)
    config = next(block for block in blocks(PAGE, "yaml") if USUAL in block)
    begin = datetime.now(UTC)
    firing = [{"labels": labels, "startsAt": begin.isoformat()} for labels in LABELS]
    changes: dict[str, Any] = {}
    if secured:
        authority, tokens = Authority(tmp_path / "authority"), tmp_path / "tokens"
        pair = authority.issue("receive")
        tokens.write_text("secret\n")
        changes = {"receive_ssl_certfile": pair.cert, "receive_ssl_keyfile": pair.key, "receive_token_file": tokens}
        http = f"{{authorization: {{credentials: secret}}, tls_config: {{ca_file: {authority.file}}}}}"
        config = config.replace("max_alerts: 0", f"max_alerts: 0, http_config: {http}")
    async with receiving(topics, **changes) as (url, _):
        address = url
    alertmanager = Alertmanager(tmp_path / "alertmanager", config.replace(USUAL, f"{address}/alerts"))
    await asyncio.to_thread(alertmanager.start)
    try:
        shown = {one["fingerprint"]: one["labels"] for one in await alertmanager.alerts(firing)}
        assert len(shown) == len(LABELS)
        await asyncio.sleep(2)
        async with receiving(topics, receive_address=address.partition("://")[2], **changes):

            async def all_of(resolved: bool) -> bool:
                found = [alert for alert in await arrived(topics) if alert.resolved is resolved]
                return {alert.fingerprint: decode_labels(alert.labels) for alert in found} == shown

            await until(lambda: all_of(False), SECONDS, "firing alerts arrive")
            end = begin + timedelta(milliseconds=1)
            await alertmanager.alerts([one | {"endsAt": end.isoformat()} for one in firing])
            await until(lambda: all_of(True), SECONDS, "resolved alerts arrive")
    finally:
        await asyncio.to_thread(alertmanager.stop)
