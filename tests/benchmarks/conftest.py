"""The benchmarks' test measures on the same servers as the integration tests."""

from tests.integration.conftest import kafka as kafka
from tests.integration.conftest import redis_server as redis_server
