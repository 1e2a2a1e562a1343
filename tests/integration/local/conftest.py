"""Tests that run `stormfold up` do so one after the other, also in different processes."""

from collections.abc import Iterator

import pytest

from tests.integration.local.running import release_default_ports


@pytest.fixture(autouse=True)
def default_ports() -> Iterator[None]:
    """Releases the default ports of `up`, which a test takes with its first `up`."""
    yield
    release_default_ports()
