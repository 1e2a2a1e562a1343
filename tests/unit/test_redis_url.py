"""Where the URL of Redis leads, and what is shown of it."""

import pytest
from redis.crc import key_slot

from stormfold.redis.cluster import SLOT_KEY
from stormfold.redis.layout import Keys
from stormfold.redis_url import RedisAddress, parse_redis_url, without_credentials


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://h", RedisAddress("server", (("h", 6379),), None, "redis://h")),
        ("rediss://u:p@[::1]:1/2?db=3", RedisAddress("server", (("::1", 1),), None, "rediss://u:p@[::1]:1/2?db=3")),
        ("unix:///s?db=1", RedisAddress("server", (), None, "unix:///s?db=1")),
        (
            "redis+sentinel://:p@a:1,[::1]:2,c/my-main.1?db=2",
            RedisAddress("sentinel", (("a", 1), ("::1", 2), ("c", 26379)), "my-main.1", "redis://:p@a:1?db=2"),
        ),
        ("rediss+sentinel://a/main", RedisAddress("sentinel", (("a", 26379),), "main", "rediss://a")),
        ("redis+cluster://u:p@a,b:1/0", RedisAddress("cluster", (("a", 6379), ("b", 1)), None, "redis://u:p@a/0")),
        ("rediss+cluster://a/?db=0", RedisAddress("cluster", (("a", 6379),), None, "rediss://a/?db=0")),
    ],
)
def test_a_url_names_a_server_sentinels_or_a_cluster(url: str, address: RedisAddress) -> None:
    assert parse_redis_url(url) == address


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://u:p@h:1/2", "redis://h:1/2"),
        ("redis://h?db=3&password=p", "redis://h?db=3"),
        ("unix://:p@/run/s?db=1", "unix:///run/s?db=1"),
        ("redis+sentinel://:p@a:1,b:2/main?db=2&client_name=me", "redis+sentinel://a:1,b:2/main?db=2"),
        ("rediss+cluster://u:p@a,b", "rediss+cluster://a,b"),
    ],
)
def test_a_url_is_shown_with_its_database_and_without_credentials(url: str, shown: str) -> None:
    assert without_credentials(url) == shown


def test_all_keys_are_in_the_slot_that_the_client_of_a_cluster_follows() -> None:
    keys = Keys("any-prefix")
    names = [keys.state_version, keys.intake, keys.of(7).positions, keys.of(7).bucket_key("group", 1)]
    assert {key_slot(name.encode()) for name in names} == {key_slot(SLOT_KEY.encode())}
