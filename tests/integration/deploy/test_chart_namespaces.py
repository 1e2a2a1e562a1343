"""The Helm chart binds roles in every namespace that a configuration writes to, or refuses the configuration."""

import pytest

from stormfold import config
from tests.integration.deploy.helm import Helm, HelmError
from tests.integration.deploy.manifests import of
from tests.integration.deploy.test_chart import helm as helm
from tests.integration.deploy.test_chart import one


def test_storms_are_written_to_the_namespace_of_the_release(helm: Helm) -> None:
    manifests = helm.rendered(namespace="alerts")
    assert {each["metadata"].get("namespace") for each in manifests} == {"alerts", None}
    data = one(manifests, "ConfigMap")["data"]["stormfold.yaml"]
    found = config.loads(data, "stormfold.yaml")
    assert [route.namespace for route in found.routes] == ["alerts"]
    assert found.incidents and found.incidents.namespace == "alerts"
    for binding in of("RoleBinding", manifests):
        assert [subject["namespace"] for subject in binding["subjects"]] == ["alerts"]


def test_further_namespaces_get_both_roles_and_no_others_can_be_routed_to(helm: Helm) -> None:
    values = {"namespaces": ["payments"], "configuration": "routes: [{name: all, namespace: payments}]"}
    manifests = helm.rendered(values)
    for kind in ("Role", "RoleBinding"):
        found = {(each["metadata"]["name"], each["metadata"]["namespace"]) for each in of(kind, manifests)}
        roles = "stormfold-writer", "stormfold-retention"
        assert found == {(role, namespace) for role in roles for namespace in ("storms", "payments")}
    assert {s["namespace"] for each in of("RoleBinding", manifests) for s in each["subjects"]} == {"storms"}
    with pytest.raises(HelmError, match="the route all writes to the namespace payments, which is neither"):
        helm.rendered(values | {"namespaces": []})


@pytest.mark.parametrize(
    ("configuration", "problem"),
    [
        ("publish: [Storm, Incident]", "incidents"),
        ("publish: [Incident]", "incidents"),
        ("incidents: {namespace: alerts}", "alerts that no route matches"),
        ("incidents: off", "alerts that no route matches"),
        ("publish: [Storm]\nroutes: []", "alerts that no route matches"),
        (
            "publish: [Isolated]\nroutes: [{name: a, namespace: alerts, match: 'team=\"a\"'}]",
            "alerts that no route matches",
        ),
        ("publish: [Storm]\nroutes: [{name: a, namespace: alerts}]", None),
        ("publish: [Storm]\nroutes: [{name: a, namespace: alerts, match: []}]", None),
        ("incidents: {namespace: alerts}\nroutes: [{name: a, namespace: alerts}]", None),
        ("incidents: {namespace: alerts}\npublish: [Incident]", None),
        ("publish: []", None),
    ],
)
def test_a_configuration_that_writes_to_a_namespace_without_roles_is_refused(
    helm: Helm, configuration: str, problem: str | None
) -> None:
    """Those without `problem` write to `alerts` only; the chart reads the file as stormfold does."""
    read = config.loads(configuration, "stormfold.yaml")
    storms = {route.namespace for route in read.routes} if set(read.publish) - {"Incident"} else set[str]()
    incidents = {read.incidents.namespace} if read.incidents and "Incident" in read.publish else set[str]()
    assert ("storms" in storms | incidents) == (problem is not None)
    values = {"configuration": configuration}
    if problem:
        with pytest.raises(HelmError, match=f"{problem} are written to the namespace storms, which is neither"):
            helm.rendered(values, namespace="alerts")
        helm.rendered(values | {"namespaces": ["storms"]}, namespace="alerts")
    else:
        helm.rendered(values, namespace="alerts")
