"""Packed rows: resources are split into a prefix that they share and the rest, without loss."""

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from stormfold.redis.layout import MAX_PREFIX, MIN_PREFIX, PREFIX_HASH_BYTES, _join, split_resources
from stormfold.resource import Resource

names = st.lists(st.sampled_from(["api", "db", "7d9f6c5b4", "x" * 70, "é"]), min_size=1, max_size=4).map("-".join)
kinds = st.sampled_from(["Pod", "Node", "", "a-kind-", "k" * 32])
resources = st.builds(Resource, kinds, st.sampled_from(["", "shop", "a-b", "-", "n" * 31, "n" * 32]), names)


@settings(deadline=None)
@given(st.lists(resources.map(msgspec.msgpack.encode) | st.just(b""), max_size=20))
def test_split_resources_can_be_joined_again(packed: list[bytes]) -> None:
    numbers, rests, prefixes = split_resources(packed)
    assert len(set(prefixes)) == len(prefixes)
    for resource, number, rest in zip(packed, numbers, rests, strict=True):
        if not number:
            assert rest == resource
            continue
        digest, prefix = prefixes[number - 1][:PREFIX_HASH_BYTES], prefixes[number - 1][PREFIX_HASH_BYTES:]
        assert rest[:PREFIX_HASH_BYTES] == digest
        assert _join(prefix, rest[PREFIX_HASH_BYTES:]) == resource
        assert MIN_PREFIX <= len(prefix) <= MAX_PREFIX


def test_pods_of_deployments_of_one_name_share_a_prefix() -> None:
    pods = [
        msgspec.msgpack.encode(Resource("Pod", namespace, f"api-7d9f6c5b4-{name}"))
        for namespace, name in (("shop", "aaaaa"), ("bank", "bbbbb"))
    ]
    node = msgspec.msgpack.encode(Resource("Node", "", "n1"))
    numbers, rests, prefixes = split_resources([pods[0], node, pods[1]])
    assert numbers == [1, 0, 1]
    assert [len(rest) for rest in rests] == [PREFIX_HASH_BYTES + 10, len(node), PREFIX_HASH_BYTES + 10]
    assert len(prefixes) == 1
