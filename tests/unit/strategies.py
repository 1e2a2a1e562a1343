"""Strategies for groups and aggregates."""

from hypothesis import strategies as st

from stormfold.eventtime import MAX_EVENT_TIME
from stormfold.group import GroupMeta
from stormfold.incident import Incident, IncidentStorm, NamespaceCount, OtherGroup
from stormfold.resource import Resource
from stormfold.scope import IncidentRules, IncidentScope
from stormfold.storm import AffectedResource, Aggregate, Example
from tests.support.storms import AWKWARD

texts = st.one_of(st.text(max_size=40), st.sampled_from(AWKWARD))
label_sets = st.dictionaries(texts, texts, max_size=6)
milliseconds = st.integers(0, MAX_EVENT_TIME)
_long_texts = st.one_of(texts, st.just("é" * 1_000))
resources = st.builds(Resource, kind=_long_texts, namespace=_long_texts, name=_long_texts)
metas = st.builds(
    GroupMeta,
    route=texts,
    labels=label_sets,
    namespace=texts,
    silenced=st.booleans(),
    storm_alerts=st.integers(1, 5),
    storm_resources=st.integers(1, 5),
    incident=st.none() | st.builds(IncidentRules, by=st.lists(texts, max_size=3, unique=True).map(tuple)),
)
counts = st.integers(0, 2**63 - 1)
scopes = st.builds(
    IncidentScope,
    labels=label_sets,
    gap=milliseconds,
    max_length=milliseconds,
    namespace=texts,
    window_gap=milliseconds,
    rank=st.integers(0, 255),
)
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
    scope=st.none() | scopes,
)
_storms = st.builds(
    IncidentStorm,
    name=texts,
    pattern=texts,
    severity=texts,
    alert_count=counts,
    resource_count=counts,
    first_seen=milliseconds,
    last_seen=milliseconds,
)
_other_groups = st.builds(OtherGroup, pattern=texts, alert_count=counts, first_seen=milliseconds)
incidents = st.builds(
    Incident,
    name=texts,
    scope=scopes,
    severity=texts,
    alert_count=counts,
    storm_count=counts,
    other_group_count=counts,
    resource_count=counts,
    first_storm=texts,
    first_pattern=texts,
    example=st.builds(Example, labels=label_sets, annotations=label_sets),
    storms=st.lists(_storms, max_size=3).map(tuple),
    other_groups=st.lists(_other_groups, max_size=3).map(tuple),
    namespaces=st.lists(st.builds(NamespaceCount, name=texts, alerts=counts), max_size=3).map(tuple),
    resources=st.lists(st.builds(AffectedResource, resource=resources, alerts=counts), max_size=3).map(tuple),
    first_seen=milliseconds,
    last_seen=milliseconds,
    until=milliseconds,
    close_reason=st.sampled_from(["Quiet", "MaxDuration"]),
    continues=st.none() | st.text(min_size=1, max_size=40),
    truncated=st.booleans(),
)
