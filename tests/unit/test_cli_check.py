"""`stormfold check`, and what all commands share: one-line errors, exit codes, output that can't act on a terminal."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import click
import pytest
import yaml
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from stormfold import cli
from stormfold.cli.output import emit_document, emit_table
from stormfold.config import Config, document
from stormfold.errors import ActionRequired, Retry
from stormfold.settings import Settings
from stormfold.text import escape_unprintable

CONFIG = """
routes:
  - name: payments
    match: namespace="payments"
    group_by: ['...']
  - name: nodes
    match: node!=""
    group_by: [alertname]
    namespace: infra
silences:
  - {name: lab, match: cluster=lab}
  - {name: over, match: cluster=prod, ends: 2020-01-01}
"""
ALERTS: list[dict[str, object]] = [
    {"labels": {"alertname": "Down", "namespace": "payments", "pod": "api-1", "severity": "warning"}},
    {"labels": {"alertname": "NodeDown", "node": "n1", "cluster": "lab", "severity": "page"}, "status": "resolved"},
    {"labels": {"alertname": "Slow", "cluster": "prod"}},
]
ANYTHING = st.text(st.characters()) | st.sampled_from(
    ["\x1b[2J", "[red]x[/]", "\u202eevil", "\x9b31m", "a\tb\r\n", "\ud800"]
)


def run(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(cli.command, arguments, input=stdin, prog_name="stormfold")


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "stormfold.yaml"
    path.write_text(CONFIG)
    return str(path)


def test_a_good_file_is_shown(config: str) -> None:
    """Windows, routes in order with the default last, and silences with whether they are active now."""
    result = run("check", config)
    assert (result.exit_code, result.stderr) == (0, "")
    lines = [line.split("  ") for line in result.stdout.splitlines()]
    assert lines[0] == ["gap 1m, grace 10s, slice 5m"]
    assert [line[0] for line in lines] == [
        "gap 1m, grace 10s, slice 5m",
        "",
        "ROUTE",
        "payments",
        "nodes",
        "default",
        "",
        "SILENCE",
        "lab",
        "over",
    ]
    assert [line[-1].strip() for line in lines[-2:]] == ["yes", "no"]


def test_a_good_file_as_json_is_the_whole_configuration(config: str) -> None:
    """Every default is written out, with the keys of the file."""
    found = json.loads(run("check", config, "-o", "json").stdout)
    assert found["valid"]
    assert found["config"]["routes"][1]["namespace"] == "infra"
    assert found["config"]["windows"] == document(Config())["windows"]


def test_every_problem_has_a_line_and_the_exit_code_is_1(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("retention: 1\nmax_storms: 0\n")
    wanted = [
        f"{path}:1:12: retention: expected a duration such as 60s or 1m30s, found '1'",
        f"{path}:2:13: max_storms: expected at least 1, found '0'",
    ]
    result = run("check", str(path))
    assert (result.exit_code, result.stdout, result.stderr.splitlines()) == (1, "", wanted)
    result = run("check", str(path), "-o", "json")
    assert (result.exit_code, json.loads(result.stdout)) == (1, {"valid": False, "problems": wanted})


@pytest.mark.parametrize(
    "form", [json.dumps, lambda alerts: "\n".join(map(json.dumps, alerts)) + "\n"], ids=["list", "lines"]
)
def test_each_alert_is_explained_in_a_list_or_in_lines(config: str, form: Callable[[object], str]) -> None:
    result = run("check", config, "--alert", "-", "-o", "json", stdin=form(ALERTS))
    assert (result.exit_code, result.stderr) == (0, "")
    assert [
        {key: alert[key] for key in alert if key != "fingerprint"} for alert in json.loads(result.stdout)["alerts"]
    ] == [
        {
            "mapping": None,
            "status": "firing",
            "route": "payments",
            "namespace": "storms",
            "groupLabels": ALERTS[0]["labels"],
            "resource": "Pod/payments/api-1",
            "severity": "warning",
            "severityLabel": "warning",
            "severityKnown": True,
            "silencedBy": None,
            "qualifies": True,
            "whyNot": None,
        },
        {
            "mapping": None,
            "status": "resolved",
            "route": "nodes",
            "namespace": "infra",
            "groupLabels": {"alertname": "NodeDown", "cluster": "lab"},
            "resource": "Node/n1",
            "severity": "critical",
            "severityLabel": "page",
            "severityKnown": True,
            "silencedBy": "lab",
            "qualifies": False,
            "whyNot": "resolved",
        },
        {
            "mapping": None,
            "status": "firing",
            "route": "default",
            "namespace": "storms",
            "groupLabels": {"alertname": "Slow", "cluster": "prod"},
            "resource": None,
            "severity": "warning",
            "severityLabel": None,
            "severityKnown": True,
            "silencedBy": None,
            "qualifies": True,
            "whyNot": None,
        },
    ]


@pytest.mark.parametrize(
    ("fields", "severity", "qualifies"),
    [
        ({}, "critical", "yes"),
        ({"status": "resolved"}, "critical", "no: resolved"),
        ({"severity": "info"}, "info", "no: info is below warning"),
        ({"severity": "bananas"}, "warning (unknown: bananas)", "yes"),
        ({"startsAt": "2020-01-01T00:00:00Z"}, "critical", "no: began 2020-01-01T00:00:00.000Z, more than 15m ago"),
        ({"startsAt": "2999-01-01T00:00:00Z"}, "critical", "yes"),
        ({"startsAt": "soon"}, "critical", "yes"),
    ],
)
def test_each_alert_shows_whether_it_counts_towards_a_storm(
    config: str, fields: dict[str, str], severity: str, qualifies: str
) -> None:
    labels = {"alertname": "A", "severity": fields.get("severity", "critical")}
    alert = {"status": "firing", **fields, "labels": labels}
    (line,) = run("check", config, "--alert", "-", stdin=json.dumps(alert)).stdout.splitlines()[1:]
    assert severity in line and line.rstrip().endswith(qualifies)


def test_a_record_without_alerts_is_reported_as_skipped(config: str) -> None:
    deletion = {"type": "DELETED", "object": {"kind": "Event"}}
    assert "No alerts" in run("check", config, "--alert", "-", stdin=json.dumps(deletion)).stdout


def test_a_bad_alert_of_a_webhook_is_named_by_its_index(config: str) -> None:
    webhook = {"alerts": [ALERTS[0], {"labels": {"alertname": "A", "pod": 3}}]}
    found = run("check", config, "--alert", "-", stdin=json.dumps(webhook))
    assert ":1: cannot be parsed: [1].labels.pod: expected str" in found.stderr


def test_the_fingerprint_is_that_of_alertmanager(config: str) -> None:
    alert = {"labels": {"name": "garland, briggs", "fear": "love is not enough"}, "status": "firing"}
    assert "507a62d79ee76c9a" in run("check", config, "--alert", "-", stdin=json.dumps(alert)).stdout


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", "standard input is empty"),
        ("nonsense", "standard input:1: not JSON: "),
        (json.dumps(ALERTS[0]) + "\nnonsense\n", "standard input:2: not JSON: "),
        (json.dumps(ALERTS[0]) + '\n\n{"labels": {"a": 1}}\n', "standard input:3: cannot be parsed: "),
        ('{"labels": {"a": "b"}, "annotations": {"a": 1}}', "standard input:1: cannot be parsed: "),
    ],
)
def test_a_refused_record_is_reported_with_its_line(config: str, text: str, wanted: str) -> None:
    result = run("check", config, "--alert", "-", stdin=text)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"stormfold: {wanted}")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [["check"], ["check", "/absent"], ["chek"], ["check", "--nope"]])
def test_a_usage_error_has_exit_code_2(arguments: list[str]) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Error: " in result.stderr


def test_help_has_examples() -> None:
    """The help shows how to call it."""
    assert "stormfold check stormfold.yaml --alert alert.json" in run("check", "--help").stdout


def failing(monkeypatch: pytest.MonkeyPatch, error: Callable[[], BaseException]) -> Result:
    """Result of a sub-command that raises."""

    @click.command
    def command() -> None:
        raise error()

    module = ModuleType("stormfold.cli.failing")
    vars(module)["command"] = command
    monkeypatch.setitem(sys.modules, "stormfold.cli.failing", module)
    monkeypatch.setitem(cli.COMMANDS, "failing", "Fails.")
    return run("failing")


@pytest.mark.parametrize(
    ("error", "code", "stderr"),
    [
        (
            lambda: ActionRequired("no\x1b[2J broker", "Start\none."),
            1,
            "stormfold: no\\x1b[2J broker\n  -> Start\\none.\n",
        ),
        (lambda: Retry("Redis is away"), 1, "stormfold: Redis is away\n"),
        (KeyboardInterrupt, 130, ""),
    ],
)
def test_an_error_takes_one_line_and_its_hint_another(
    monkeypatch: pytest.MonkeyPatch, error: Callable[[], BaseException], code: int, stderr: str
) -> None:
    result = failing(monkeypatch, error)
    assert (result.exit_code, result.stdout, result.stderr) == (code, "", stderr)


def test_a_wrong_setting_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORMFOLD_KAFAK", "x")
    assert failing(monkeypatch, lambda: pytest.fail(str(Settings()))).exit_code == 2


def test_help_loads_no_client_library() -> None:
    """Modules that take long to import are left to the commands that need them."""
    heavy = "aiohttp aiokafka faust kubernetes msgspec pydantic redis structlog uvloop"
    code = f"import sys, stormfold.cli; sys.exit(', '.join(sys.modules.keys() & set('{heavy}'.split())) or 0)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (0, "")


def test_a_closed_pipe_is_not_an_error(config: str) -> None:
    """`stormfold check … | head` prints nothing on standard error."""
    command = [sys.executable, "-c", "from stormfold.cli import main; main()", "check", config, "-o", "json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        assert process.stderr.read() == b""


@given(ANYTHING)
def test_safe_text_cannot_act_on_a_terminal(text: str) -> None:
    """Only printable characters remain, and printable text is unchanged."""
    assert escape_unprintable(text).isprintable()
    assert escape_unprintable(escape_unprintable(text)) == escape_unprintable(text)
    assert not text.isprintable() or escape_unprintable(text) == text


@given(st.lists(st.fixed_dictionaries({"a": ANYTHING, "b": st.integers() | st.booleans() | st.none()}), min_size=1))
def test_output_holds_the_data_and_cannot_act_on_a_terminal(rows: list[dict[str, object]]) -> None:
    """Tables have a line for each row; JSON and YAML read back to the same; all of it is printable."""

    @click.command
    @click.argument("form")
    def command(form: str) -> None:
        if form == "table":
            emit_table(rows, ["a", "b"])
        else:
            emit_document(rows, "yaml" if form == "yaml" else "json")

    for form in ("table", "json", "yaml"):
        result = CliRunner().invoke(command, [form])
        assert result.exit_code == 0, result.exception
        assert all(line.isprintable() for line in result.stdout.split("\n"))
        if form == "table":
            assert result.stdout.count("\n") == len(rows) + 1
        else:
            assert (json.loads(result.stdout) if form == "json" else yaml.safe_load(result.stdout)) == rows


def test_the_mapping_of_an_alert_is_named(tmp_path: Path) -> None:
    """As a column of its own, if there is one at all; a record that is skipped shows nothing."""
    path = tmp_path / "stormfold.yaml"
    path.write_text("mappings: [{name: mine, when: check && !passed, labels: {alertname: check}}]\n")
    record = {"check": "disk"}
    result = run("check", str(path), "--alert", "-", stdin=json.dumps(record))
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines()[0].split()[0] == "MAPPING"
    assert result.stdout.splitlines()[1].split()[0] == "mine"
    result = run("check", str(path), "--alert", "-", stdin=json.dumps({**record, "passed": True}))
    assert result.exit_code == 1 and "no known format has these keys: check, passed" in result.stderr


def test_an_expression_that_is_wrong_is_shown_with_its_place(tmp_path: Path) -> None:
    """Line, column and key, as for every other value."""
    path = tmp_path / "stormfold.yaml"
    path.write_text(
        "mappings:\n  - name: mine\n    when: check &&\n    labels: {alertname: '!a.b'}\n  - {name: b, when: c}\n"
    )
    result = run("check", str(path))
    assert result.stderr.splitlines() == [
        f"{path}:3:11: mappings[0].when: expected a JMESPath expression: Invalid jmespath expression: "
        "Incomplete expression:",
        f"{path}:4:25: mappings[0].labels.alertname: `!` binds tighter than `.`: expected !(a.b), found !a.b",
        f"{path}:5:5: mappings[1]: expected one of labels and unwrap",
    ]
