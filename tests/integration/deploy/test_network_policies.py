"""The network policies open the ports that docs/how-to/secure.md names, and take the rules that it adds."""

import re
from typing import Any

import pytest
import yaml

from tests.integration.deploy.files import K8S, RECEIVE, ROOT, Manifest, Programs, built
from tests.integration.deploy.helm import Helm
from tests.integration.deploy.manifests import of
from tests.integration.deploy.test_chart import helm as helm
from tests.integration.deploy.test_docs import blocks

PAGE = ROOT / "docs" / "how-to" / "secure.md"
POLICIES = {"stormfold": "workers", "stormfold-receive": "receivers"}
"""Names of the policies, and the words of the page for their pods."""


@pytest.fixture(scope="module")
def base(tools: Programs) -> list[Manifest]:
    """The base with the receiver."""
    return built(tools.kustomize, K8S / "base", (), RECEIVE)


def egress(manifests: list[Manifest]) -> dict[str, list[dict[str, Any]]]:
    """Returns the rules for outgoing connections of each policy."""
    return {one["metadata"]["name"]: one["spec"]["egress"] for one in of("NetworkPolicy", manifests)}


def test_the_page_names_exactly_the_ports_that_the_policies_open(base: list[Manifest]) -> None:
    text = PAGE.read_text().partition("### Network policies")[2]
    rows = re.findall(r"^\| ([\w, ]+) \| ([\d, to]+) \| [^|]+ \|$", text, re.MULTILINE)
    found = egress(base)
    assert found.keys() == POLICIES.keys()
    for policy, pods in POLICIES.items():
        named = {
            tuple(map(int, ports.split(" to "))) for who, cell in rows if pods in who for ports in cell.split(", ")
        }
        opened = {
            tuple(sorted({port["port"], port.get("endPort", port["port"])}))
            for rule in found[policy]
            for port in rule["ports"]
        }
        assert named == opened


def test_alertmanager_is_reached_by_workers_as_the_page_on_early_notice_promises(base: list[Manifest]) -> None:
    text = (ROOT / "docs" / "how-to" / "early-notice.md").read_text()
    (port,) = set(re.findall(r"STORMFOLD_ALERTMANAGER=\S+:(\d+)$", text, re.MULTILINE))
    assert f"admits Alertmanager's {port}" in text
    ports = [port for rule in egress(base)["stormfold"] for port in rule["ports"]]
    assert any(one["port"] <= int(port) <= one.get("endPort", one["port"]) for one in ports)


def test_the_rules_of_the_page_are_added_to_both_policies(helm: Helm, tools: Programs, base: list[Manifest]) -> None:
    patch, values = blocks(PAGE, "yaml")
    wanted = {name: [*rules, {"ports": [{"protocol": "TCP", "port": 443}]}] for name, rules in egress(base).items()}
    assert egress(built(tools.kustomize, K8S / "base", (), RECEIVE, added=yaml.safe_load(patch))) == wanted
    assert egress(helm.rendered(yaml.safe_load(values) | {"receive": {"enabled": True}})) == wanted
