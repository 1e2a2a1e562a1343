"""`stormfold demo`: a simulated incident on this machine, from its alerts to the manifests of its storms."""

import shlex
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape

from stormfold.cli.output import program
from stormfold.config import loads
from stormfold.errors import StormfoldError
from stormfold.local.demo import CONFIG, Demo, Outcome
from stormfold.local.incident import IncidentRecord, incident
from stormfold.local.stack import Stack, interruptible, lock_directory, log_to, run
from stormfold.local.view import Lines, Picture, plain, summary, terminal
from stormfold.settings import Settings
from stormfold.text import pluralize

CONFIG_NAME = "stormfold.yaml"
LOG_NAME = "worker.log"
MANIFESTS = "storms"
INCIDENTS = "incidents"
"""Folder below it."""
FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command(
    epilog="""\b
Examples:
  stormfold demo
  stormfold demo --seed 7 --output /tmp/incident
  stormfold demo --plain | tee demo.txt

Exits with 1 if an alert was not counted exactly once, or if a storm has no manifest."""
)
@click.option("--seed", type=int, default=1, show_default=True, help="Each seed gives a different incident.")
@click.option(
    "--output", "folder", type=FOLDER, default="stormfold-demo", show_default=True,
    help="Folder for manifests, configuration and log. The next demo replaces them.",
)  # fmt: skip
@click.option("--plain", "lines", is_flag=True, help="Print lines, not a live picture. Default without a terminal.")
@click.option("--keep", is_flag=True, help="Keep the data of Kafka and Redis, and print how to serve them again.")
@click.pass_context
def command(ctx: click.Context, seed: int, folder: Path, lines: bool, keep: bool) -> None:
    """Replay a simulated incident on this machine and verify that every alert was counted exactly once.

    A node dies, and the pods of thirty namespaces fail: several thousand alerts go through a real Kafka, Redis and
    worker and become storms. It takes about 25 seconds; the first run downloads Kafka (46 MB).
    """
    records = incident(seed, round(time.time() * 1000))
    data = Settings().data_dir / "demo"
    screen = None if lines else terminal()
    console = screen or plain()
    with (
        lock_directory(folder, "choose another folder with --output"),
        lock_directory(data, "choose another folder with STORMFOLD_DATA_DIR"),
        interruptible(),
    ):
        _clear(folder, data)
        _introduce(console, folder, records)
        try:
            outcome = _play(Picture(screen, records[-1].at) if screen else Lines(), folder, data, records, keep)
            good = _print_outcome(console, folder, outcome)
            keep = keep or not good
        except KeyboardInterrupt:
            _print(console, "Interrupted. The worker, Kafka and Redis are stopped.")
            if written := _count(folder):
                _print(console, f"{pluralize(written, 'manifest')} written so far to {escape(str(folder / MANIFESTS))}")
            raise
        except StormfoldError:
            # Its message can refer to a log in the data folder.
            keep = True
            raise
        finally:
            if keep:
                command = f"{program()} up --data {shlex.quote(str(data))}"
                _print(console, f"The data of Kafka and Redis are kept. To serve them again: {escape(command)}")
            else:
                shutil.rmtree(data, ignore_errors=True)
    ctx.exit(0 if good else 1)


def _clear(folder: Path, data: Path) -> None:
    """Removes what an earlier demo left: only names that a demo uses, in folders that are marked as stormfold's."""
    for old in (folder / MANIFESTS, data / "kafka", data / "redis"):
        shutil.rmtree(old, ignore_errors=True)
    (folder / LOG_NAME).unlink(missing_ok=True)


def _introduce(console: Console, folder: Path, records: Sequence[IncidentRecord]) -> None:
    alerts = sum(record.alerts for record in records)
    invalid = sum(record.alerts == 0 for record in records)
    (folder / CONFIG_NAME).write_text(CONFIG, encoding="utf-8")
    _print(
        console,
        f"[bold]A simulated incident of {pluralize(alerts, 'alert')}[/] and {pluralize(invalid, 'invalid record')},"
        " for a real Kafka, Redis and worker on this machine.",
        f"[dim]{escape(str(folder / CONFIG_NAME))}:",
        *(f"[dim]  {escape(line)}" for line in CONFIG.splitlines()),
        "",
    )


def _print(console: Console, *lines: str) -> None:
    for line in lines:
        # Without a terminal, lines are not wrapped.
        console.print(line, highlight=False, soft_wrap=not console.is_terminal)


def _play(view: Lines | Picture, folder: Path, data: Path, records: Sequence[IncidentRecord], keep: bool) -> Outcome:
    stack = Stack(data, view.step)
    with view.live, stack.running(graceful=keep):
        view.step("Starting a worker")
        settings = stack.settings(http_address="127.0.0.1:0", sink=f"directory:{folder / MANIFESTS}")
        log_to(folder / LOG_NAME, settings.log_level)
        demo = Demo(settings, loads(CONFIG, CONFIG_NAME), records, view.step, view.show)
        return run(stack.watched(demo.run()))


def _print_outcome(console: Console, folder: Path, outcome: Outcome) -> bool:
    """Prints the summary; returns whether every alert was counted and every storm has a manifest."""
    report = outcome.report
    storms = report.aggregates - report.non_storms
    files, incidents = _count(folder), len(list((folder / MANIFESTS / INCIDENTS).glob("*.yaml")))
    alerts = sum(found.alert_count for found in outcome.aggregates if found.aggregate_class == "Storm")
    manifests = escape(str(folder / MANIFESTS))
    console.print(summary(outcome, console))
    _print(
        console,
        "",
        f"[{'green' if report.balanced else 'bold red'}]{report.verdict}",
        f"{pluralize(files, 'manifest')} stand for {pluralize(alerts, 'alert')}: {alerts // max(1, files):,} to 1."
        + ("" if files == storms else f" [bold red]{pluralize(storms, 'manifest')} expected."),
        *_announcement(outcome, incidents, manifests),
        f"To apply the manifests: [bold]kubectl apply --recursive -f {manifests}[/] (after k8s/crd.yaml).",
        f"Next: [bold]{escape(program())} up[/] runs the same servers, empty, for your own alerts.",
    )
    return report.balanced and files == storms and incidents == len(outcome.incidents)


def _announcement(outcome: Outcome, written: int, manifests: str) -> list[str]:
    """When the incident was announced, and where its manifest is."""
    found = outcome.announced
    early = f"announced {found.after:.1f} s after its first alert" if found else "not announced"
    expected = "" if written == len(outcome.incidents) else f" [bold red]{len(outcome.incidents)} expected."
    return [f"The incident was {early}; {manifests}/{INCIDENTS} has {pluralize(written, 'manifest')} of it.{expected}"]


def _count(folder: Path) -> int:
    """Number of manifests."""
    return len(list((folder / MANIFESTS).glob("*.yaml")))
