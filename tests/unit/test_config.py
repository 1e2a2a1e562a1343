"""Good configuration files are read completely; bad ones are refused with place, key and expectation."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stormfold.config import Config, ConfigError, dump, load, loads
from stormfold.config.schema import RESERVED_LABELS
from stormfold.routing import DEFAULT_ROUTE, Matcher, Route, Silence, parse_matchers
from stormfold.scope import IncidentRules
from stormfold.times import format_duration
from stormfold.window import Windows

FILES = Path(__file__).parent / "testdata" / "config"
GOOD = sorted(FILES.glob("good_*.yaml"))
BAD = sorted(FILES.glob("bad_*.yaml"))

NAMES = st.from_regex(r"[a-z]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True).filter(lambda name: name != "default")
TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=10) | st.sampled_from(
    ["no", "null", "~", "1", "1.5", "2026-01-01", "...x", "a: b", "#", "<<", "=", "'", '"', " ", "\x07", "line\nbreak"]
)
MATCH = st.lists(
    st.builds(Matcher, TEXTS, st.sampled_from(["=", "!="]), TEXTS) | st.just(Matcher("a", "=~", r"\d+|é")),
    min_size=1,
    max_size=3,
).map(tuple)
COUNTS = st.integers(1, 1_000)
DURATIONS = st.integers(1, 365 * 86_400_000)


def unique(values: st.SearchStrategy[str], least: int = 0) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(values, unique=True, min_size=least, max_size=4).map(tuple)


@st.composite
def configs(draw: st.DrawFn) -> Config:
    gap = draw(st.integers(1, 100_000))
    slice_ = gap * draw(st.integers(2, 10))
    severities = draw(unique(TEXTS, 1))
    others = TEXTS.filter(lambda word: word.lower() not in {name.lower() for name in severities})
    incident_gap = gap + draw(st.integers(1, 10**9))
    by = unique(TEXTS.filter(lambda name: name not in RESERVED_LABELS))
    rules = st.builds(IncidentRules, by, st.just(incident_gap), st.integers(incident_gap, 2 * 10**9), NAMES)
    routes = [
        Route(
            name=name,
            match=draw(MATCH),
            group_by=draw(st.none() | unique(TEXTS)),
            storm_alerts=draw(COUNTS),
            storm_resources=draw(COUNTS),
            storm_severity=draw(st.sampled_from(["warning", *severities])),
            new_for=draw(st.none() | DURATIONS),
            namespace=draw(NAMES),
            incidents=draw(st.booleans()),
        )
        for name in draw(unique(NAMES))
    ]
    silences = []
    for name in draw(unique(TEXTS)):
        starts = draw(st.none() | st.integers(0, 10**13))
        ends = draw(st.none() | st.integers((starts or 0) + 1, 2 * 10**13))
        silences.append(Silence(name, draw(MATCH), starts, ends))
    return Config(
        windows=Windows(gap, draw(st.integers(0, slice_)), slice_),
        idle_timeout=draw(DURATIONS),
        incidents=draw(st.none() | rules),
        routes=(*routes, DEFAULT_ROUTE),
        silences=tuple(silences),
        severity_label=draw(TEXTS),
        severities=severities,
        severity_aliases=draw(st.dictionaries(others, st.sampled_from(severities), max_size=2)),
        default_labels=draw(st.dictionaries(TEXTS, TEXTS, max_size=2)),
        exporters=draw(unique(TEXTS)),
        resource_labels=tuple((label, "Pod") for label in draw(unique(TEXTS))),
        max_resources=draw(COUNTS),
        max_fingerprints=draw(COUNTS),
        max_groups=draw(COUNTS),
        publish=draw(st.sampled_from([(), ("Storm",), ("Silenced", "Isolated")])),
        retention=draw(DURATIONS),
        max_storms=draw(COUNTS),
    )


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_a_bad_file_is_refused_with_line_column_key_and_expectation(path: Path) -> None:
    """The file's first line has the message."""
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert caught.value.problems == [str(path) + path.read_text().splitlines()[0].removeprefix("# ")]


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_a_good_file_survives_being_written(path: Path) -> None:
    config = load(path)
    assert loads(dump(config), "again") == config


@given(configs())
def test_every_configuration_survives_being_written(config: Config) -> None:
    """Even with texts that YAML would read as another type."""
    assert loads(dump(config), "again") == config


def test_all_keys_are_read() -> None:
    """Each key of the full file reaches the configuration, in its unit."""
    assert load(FILES / "good_full.yaml") == Config(
        windows=Windows(gap=30_000, grace=5_000, slice_length=150_000),
        idle_timeout=300_000,
        routes=(
            Route(
                "payments",
                parse_matchers('namespace="payments",severity=~"critical|error"'),
                ("alertname", "cluster", "namespace"),
                storm_alerts=3,
                storm_resources=2,
                storm_severity="P1",
                new_for=None,
                namespace="payments-storms",
            ),
            Route("watchdog", parse_matchers('alertname="Watchdog","a name with spaces"!=""'), None),
            Route("rest", (), (), incidents=False),
        ),
        incidents=IncidentRules(("cluster", "region"), 240_000, 2_700_000, "incidents"),
        silences=(
            Silence("move of the lab", parse_matchers("cluster=lab"), 1_769_860_800_000, 1_769_905_800_500),
            Silence("test alerts", parse_matchers("alertname=~Test.*,cluster!=prod"), 1_769_817_600_000, None),
        ),
        severity_label="priority",
        severities=("p1", "p2", "no"),
        severity_aliases={"urgent": "p1"},
        default_labels={"cluster": "prod"},
        exporters=("kube-state-metrics", "*exporter*", "my-probe"),
        resource_labels=(("persistentvolumeclaim", "PersistentVolumeClaim"), ("pod", "Pod")),
        max_resources=500,
        max_fingerprints=5_000,
        max_groups=20_000,
        publish=("Storm", "Isolated"),
        retention=216_000_000,
        max_storms=500,
    )


@pytest.mark.parametrize("name", ["good_empty", "good_comment", "good_nulls"])
def test_an_empty_file_has_the_defaults(name: str) -> None:
    assert load(FILES / f"{name}.yaml") == load(None) == Config()


def test_incidents_can_be_off_and_their_gap_follows_the_windows() -> None:
    assert load(FILES / "good_incidents_off.yaml") == Config(incidents=None)
    rules = loads("windows: {gap: 40m, slice: 120m}", "f").incidents
    assert rules is not None and (rules.gap, rules.max_length) == (80 * 60_000, 80 * 60_000)


def test_a_default_route_follows_a_last_route_with_conditions() -> None:
    assert [route.name for route in loads('routes: [{name: a, match: "b=c"}]', "f").routes] == ["a", "default"]
    assert [route.name for route in loads("routes: [{name: a}]", "f").routes] == ["a"]
    assert [route.name for route in loads("routes: [{name: default, group_by: []}]", "f").routes] == ["default"]


def test_all_problems_are_reported_in_order() -> None:
    with pytest.raises(ConfigError) as caught:
        loads("retention: 1\nroutes:\n  - nam: x\nmax_storms: 0\n", "f.yaml")
    assert caught.value.problems == [
        "f.yaml:1:12: retention: expected a duration such as 60s or 1m30s, found '1'",
        "f.yaml:3:5: routes[0].nam: unknown key, did you mean name?",
        "f.yaml:3:5: routes[0].name: this key is missing",
        "f.yaml:4:13: max_storms: expected at least 1, found '0'",
    ]
    assert str(caught.value) == caught.value.problems[0]
    assert caught.value.hint == "`stormfold check f.yaml` shows 3 more like this."


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [("500ms", 500), ("60s", 60_000), ("1m30s", 90_000), ("2h", 7_200_000), ("1d", 86_400_000), ("1w", 604_800_000)],
)
def test_durations_are_parsed_as_by_prometheus(text: str, milliseconds: int) -> None:
    assert loads(f"retention: {text}", "f").retention == milliseconds


@pytest.mark.parametrize("text", ["", "s", "1", "-1s", "1.5h", "1s1m", "1 s", "1S", "1:30", "٣s"])
def test_other_durations_are_refused(text: str) -> None:
    """No unit, no sign, no fraction, no other order, ASCII digits only."""
    with pytest.raises(ConfigError, match="expected a duration"):
        loads(f"retention: '{text}'", "f")


@given(DURATIONS)
def test_a_formatted_duration_parses_to_the_same_number(milliseconds: int) -> None:
    assert loads(f"retention: {format_duration(milliseconds)}", "f").retention == milliseconds


@given(st.text(st.sampled_from("routes:windowsgap \n-[]{}&*!<>|'\"%@#,?~01\t\x00é\ud800"), max_size=60))
def test_any_text_is_a_configuration_or_refused(text: str) -> None:
    try:
        loads(text, "f")
    except ConfigError as error:
        assert str(error).startswith("f:")


@pytest.mark.parametrize("text", ["[" * 5_000, "a: &a [*a]", "? [a]\n: b", "routes: &r [*r]", "{" * 5_000 + "a"])
def test_hostile_yaml_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        loads(text, "f")


def test_a_file_that_cannot_be_read_is_reported_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"a: 1\nb: \xe9\n")
    for name, message in {
        "absent": ": No such file or directory",
        "": ": Is a directory",
        "latin": ":2: expected UTF-8",
    }.items():
        with pytest.raises(ConfigError) as caught:
            load(tmp_path / name)
        assert str(caught.value) == f"{tmp_path / name}{message}"
