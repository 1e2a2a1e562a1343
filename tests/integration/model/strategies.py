"""Alerts and windows for tests that draw them."""

from hypothesis import strategies as st

from stormfold.group import GroupMeta
from stormfold.resource import Resource
from stormfold.window import Windows
from tests.integration.model.plain import SEVERITIES, Alert

GROUPS = (
    GroupMeta("default", {"alertname": "KubePodCrashLooping", "cluster": "prod"}, "storms", False, 3, 2),
    GroupMeta("default", {"alertname": "KubePodCrashLooping"}, "storms", True, 3, 2),
    GroupMeta("payments", {}, "payments", False, 2, 10),
    # The first one again, as another configuration has it.
    GroupMeta("default", {"alertname": "KubePodCrashLooping", "cluster": "prod"}, "elsewhere", False, 2, 9),
)

_resources = (None, Resource("Pod", "shop", "api-1"), Resource("Pod", "shop", "api-2"), Resource("Node", "", "node-7"))
_examples = tuple(b'{"labels":{"pod":"%s"},"annotations":{}}' % name for name in (b"a", b"a-", b"b", b"\xc3\xa9"))


@st.composite
def windows(draw: st.DrawFn) -> Windows:
    """Small ones."""
    gap = draw(st.integers(1, 12))
    return Windows(gap=gap, grace=draw(st.integers(0, 20)), slice_length=gap * draw(st.integers(2, 6)))


def fingerprints(most: int = 6) -> st.SearchStrategy[bytes]:
    """A few fingerprints."""
    return st.integers(0, most - 1).map(lambda number: (number * 0x0123456789ABCDEF).to_bytes(8, "big"))


def alerts(times: st.SearchStrategy[int], resources: bool = True) -> st.SearchStrategy[Alert]:
    """Alerts of a few groups. With `resources` false each fingerprint has no resource."""
    return st.builds(
        Alert,
        fingerprint=fingerprints(),
        meta=st.sampled_from(GROUPS),
        time=times,
        resolved=st.booleans(),
        late=st.booleans(),
        not_qualified=st.sampled_from((False, False, True)),
        rank=st.integers(0, len(SEVERITIES) - 1),
        resource=st.sampled_from(_resources if resources else (None,)),
        example=st.sampled_from(_examples),
    )
