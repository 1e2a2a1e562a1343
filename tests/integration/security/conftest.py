"""An authority that servers and clients trust, and another one."""

from pathlib import Path

import pytest

from tests.integration.security.certificates import Authority


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Signed the servers' certificates."""
    return Authority(tmp_path_factory.mktemp("authority") / "ours")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """No server trusts it."""
    return Authority(tmp_path_factory.mktemp("stranger") / "other")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Windows small enough that nobody waits for them."""
    path = tmp_path / "stormfold.yaml"
    path.write_text("windows: {gap: 2s, grace: 1s, slice: 10s}\n")
    return path
