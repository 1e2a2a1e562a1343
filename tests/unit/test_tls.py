"""TLS contexts that reload their files: handshakes in memory, while the files are replaced one after the other."""

import ssl
from pathlib import Path

from structlog.testing import capture_logs

from stormfold.tls import ReloadingSSLContext
from tests.integration.security.certificates import Authority


def shown(context: ReloadingSSLContext, authority: Authority) -> bytes | None:
    """The certificate that a client of this authority gets in a handshake with a server of this context."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    trusted = ssl.create_default_context(cafile=str(authority.file))
    client = trusted.wrap_bio(to_client, to_server, server_hostname="127.0.0.1")
    server = context.wrap_bio(to_server, to_client, server_side=True)
    for side in (client, server, client, server):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    return client.getpeercert(binary_form=True)


def test_a_half_renewed_certificate_changes_nothing_until_its_key_is_there(tmp_path: Path) -> None:
    """The old pair is shown, and the reason is logged once; then the new pair."""
    authority = Authority(tmp_path / "authority")
    pair, renewed = authority.issue("receive"), authority.issue("receive")
    context = ReloadingSSLContext(None, pair.cert, pair.key, ssl.Purpose.CLIENT_AUTH)
    before = shown(context, authority)
    with capture_logs() as logs:
        renewed.cert.replace(pair.cert)
        assert [shown(context, authority) for _ in range(3)] == [before] * 3
        renewed.key.replace(pair.key)
        assert shown(context, authority) not in (None, before)
    assert [(entry["log_level"], entry["files"]) for entry in logs] == [
        (level, [str(pair.cert), str(pair.key)]) for level in ("warning", "info")
    ]
    assert "KEY_VALUES_MISMATCH" in logs[0]["error"]


def test_a_missing_file_changes_nothing(tmp_path: Path) -> None:
    """The reason is logged once each time that files go missing."""
    authority = Authority(tmp_path / "authority")
    pair = authority.issue("receive")
    context = ReloadingSSLContext(None, pair.cert, pair.key, ssl.Purpose.CLIENT_AUTH)
    away = pair.key.with_suffix(".away")
    with capture_logs() as logs:
        for _ in range(2):
            pair.key.rename(away)
            assert shown(context, authority) and shown(context, authority)
            away.rename(pair.key)
            assert shown(context, authority)
    assert [entry["log_level"] for entry in logs] == ["warning"] * 2
