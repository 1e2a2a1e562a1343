"""A certificate authority that servers and clients trust, and another one."""

from pathlib import Path

import pytest

from tests.integration.security.certificates import Authority


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The authority that signed the servers' certificates."""
    return Authority(tmp_path_factory.mktemp("authority") / "ours")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that no server trusts."""
    return Authority(tmp_path_factory.mktemp("stranger") / "other")


@pytest.fixture
def config(config_file: Path) -> Path:
    """A configuration file with windows that close within seconds."""
    return config_file
