"""Health names the namespaces that cannot be written, in a text that changes only if a problem does."""

from collections.abc import Mapping

from stormfold.errors import ActionRequired, Retry, StormfoldError
from stormfold.health import Health
from stormfold.stages.blocked import BlockedNamespaces


def blocked(problems: Mapping[str, StormfoldError]) -> tuple[BlockedNamespaces, Health]:
    health = Health()
    found = BlockedNamespaces("emit", health)
    for namespace, error in problems.items():
        assert found.add(namespace, (0, namespace), error)
    return found, health


def test_equal_problems_are_reported_once_with_their_namespaces() -> None:
    _, health = blocked({"b": Retry("away"), "a": Retry("away"), "c": ActionRequired("403", "bind it")})
    assert health.reported["emit"].problem == "away (namespaces a, b); 403 (namespace c)"
    assert health.reported["emit"].hint == "bind it"


def test_many_problems_and_namespaces_are_cut() -> None:
    _, health = blocked({f"n{n}": Retry("away") for n in range(9)} | {f"m{n}": Retry(f"e{n}") for n in range(5)})
    text = health.reported["emit"].problem
    assert text == "e0 (namespace m0); e1 (namespace m1); e2 (namespace m2); and 3 more problems"
    _, health = blocked({f"n{n}": Retry("away") for n in range(9)})
    assert health.reported["emit"].problem == "away (namespaces n0, n1, n2, n3, n4 and 4 more)"


def test_a_problem_is_new_only_if_that_of_the_first_lane_changes() -> None:
    """Messages name resources, so each partition has another one."""
    found, health = blocked({"a": Retry("no x")})
    assert not found.add("a", (1, "a"), Retry("no y"))
    assert not found.add("a", (0, "a"), Retry("no x"))
    assert found.add("a", (0, "a"), Retry("no z"))
    assert health.reported["emit"].problem == "no z (namespace a)"
    found.remove("a", (0, "a"))
    assert health.reported["emit"].problem == "no y (namespace a)" and "a" in found
    found.remove("a", (1, "a"))
    assert not health.reported and "a" not in found


def test_the_problem_of_somebody_else_is_not_cleared() -> None:
    """The consumer reports under the same name."""
    found, health = blocked({"a": Retry("away")})
    health.set_unhealthy("emit", "no Kafka broker answers")
    found.remove("a", (0, "a"))
    assert health.reported["emit"].problem == "no Kafka broker answers"
