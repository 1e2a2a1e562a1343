"""Strategies for groups and aggregates."""

from hypothesis import strategies as st

from stormfold.eventtime import MAX_EVENT_TIME
from stormfold.group import GroupMeta
from stormfold.resource import Resource
from stormfold.storm import AffectedResource, Aggregate, Example
from tests.support.storms import AWKWARD

texts = st.one_of(st.text(max_size=40), st.sampled_from(AWKWARD))
label_sets = st.dictionaries(texts, texts, max_size=6)
milliseconds = st.integers(0, MAX_EVENT_TIME)
resources = st.builds(Resource, kind=texts, namespace=texts, name=texts)
metas = st.builds(
    GroupMeta,
    route=texts,
    labels=label_sets,
    namespace=texts,
    silenced=st.booleans(),
    storm_alerts=st.integers(1, 5),
    storm_resources=st.integers(1, 5),
)
counts = st.integers(0, 2**63 - 1)
aggregates = st.builds(
    Aggregate,
    name=texts,
    namespace=texts,
    aggregate_class=st.sampled_from(["Storm", "Isolated", "Silenced"]),
    route=texts,
    group_labels=label_sets,
    pattern=texts,
    severity=texts,
    alert_count=counts,
    distinct=counts,
    resolved=counts,
    resource_count=counts,
    resources=st.lists(st.builds(AffectedResource, resource=resources, alerts=counts), max_size=5).map(tuple),
    example=st.builds(Example, labels=label_sets, annotations=label_sets),
    first_seen=milliseconds,
    last_seen=milliseconds,
    close_reason=st.sampled_from(["Inactivity", "Slice"]),
    late=counts,
    truncated=st.booleans(),
)
