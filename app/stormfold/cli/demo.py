"""`stormfold demo`: the main job on this machine, told as an incident."""

import shlex
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape

from stormfold.config import loads
from stormfold.errors import StormfoldError
from stormfold.local.demo import CONFIG, Demo, Outcome, View
from stormfold.local.incident import Told, incident
from stormfold.local.stack import Stack, interruptible, lock_directory, log_to, run
from stormfold.local.view import Lines, Picture, plain, summary, terminal
from stormfold.settings import Settings
from stormfold.text import pluralize

CONFIG_NAME = "stormfold.yaml"
LOG_NAME = "worker.log"
MANIFESTS = "storms"


@click.command(
    epilog="""\b
Examples:
  stormfold demo
  stormfold demo --seed 7 --output /tmp/incident
  stormfold demo --plain | tee demo.txt

Exits with 1 if the books do not balance, or a storm has no manifest."""
)
@click.option("--seed", type=int, default=1, show_default=True, help="Another seed, another incident.")
@click.option(
    "--output",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("stormfold-demo"),
    show_default=True,
    help="Folder for manifests, configuration and log. The next demo replaces it.",
)
@click.option("--plain", "lines", is_flag=True, help="Lines instead of a live picture, as where there is no terminal.")
@click.option("--keep", is_flag=True, help="Keep the data of Kafka and Redis; it is said how to serve them again.")
@click.pass_context
def command(ctx: click.Context, seed: int, folder: Path, lines: bool, keep: bool) -> None:
    """Tell an incident of several thousand alerts to a real Kafka, Redis and worker, and show its storms.

    A node dies, and the pods of thirty namespaces follow. It takes about 25 seconds; the first time it downloads Kafka
    (46 MB).
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
            good = _report(console, folder, outcome)
            keep = keep or not good
        except KeyboardInterrupt:
            _tell(console, "Interrupted: the worker, Kafka and Redis are stopped.")
            _tell(console, f"Manifests so far: {_count(folder)} in {escape(str(folder / MANIFESTS))}")
            raise
        except StormfoldError:
            # Its message may speak of a log that is in there.
            keep = True
            raise
        finally:
            if keep:
                command = f"stormfold up --data {shlex.quote(str(data))}"
                _tell(console, f"The data of Kafka and Redis are kept; this serves them: {escape(command)}")
            else:
                shutil.rmtree(data, ignore_errors=True)
    ctx.exit(0 if good else 1)


def _clear(folder: Path, data: Path) -> None:
    """What an earlier demo has left goes: only what has a demo's name, in folders that are marked as ours."""
    for old in (folder / MANIFESTS, data / "kafka", data / "redis"):
        shutil.rmtree(old, ignore_errors=True)
    (folder / LOG_NAME).unlink(missing_ok=True)


def _introduce(console: Console, folder: Path, records: Sequence[Told]) -> None:
    alerts, garbage = sum(told.alerts for told in records), sum(told.alerts == 0 for told in records)
    (folder / CONFIG_NAME).write_text(CONFIG, encoding="utf-8")
    _tell(
        console,
        f"[bold]An incident of {pluralize(alerts, 'alert')}[/], and {pluralize(garbage, 'record')} of garbage, told to"
        " a real Kafka, Redis and worker on this machine.",
        f"[dim]{escape(str(folder / CONFIG_NAME))}:",
        *(f"[dim]  {escape(line)}" for line in CONFIG.splitlines()),
        "",
    )


def _tell(console: Console, *lines: str) -> None:
    for line in lines:
        # Outside of a terminal a line stays a line.
        console.print(line, highlight=False, soft_wrap=not console.is_terminal)


def _play(view: View, folder: Path, data: Path, records: Sequence[Told], keep: bool) -> Outcome:
    stack = Stack(data, view.say)
    stack.peaceful = keep
    with view, stack.running():
        view.say("Starting a worker")
        settings = stack.settings(http_address="127.0.0.1:0", sink=f"directory:{folder / MANIFESTS}")
        log_to(folder / LOG_NAME, settings.log_level)
        return run(Demo(settings, loads(CONFIG, CONFIG_NAME), records, view).run())


def _report(console: Console, folder: Path, outcome: Outcome) -> bool:
    """Prints how it went; returns whether all is as it has to be."""
    storms = sum(storm.aggregate_class == "Storm" for storm in outcome.storms)
    files = _count(folder)
    good = outcome.books.balanced and files == storms
    # The books count a record that nobody understands as one alert.
    told = outcome.books.alerts - outcome.books.dead_letters
    manifests = escape(str(folder / MANIFESTS))
    console.print(summary(outcome, console))
    _tell(
        console,
        "",
        f"[{'green' if outcome.books.balanced else 'bold red'}]{outcome.books.verdict}",
        f"{pluralize(told, 'alert')}, {pluralize(files, 'manifest')}: {told // max(1, files):,} to 1."
        + ("" if files == storms else f" [bold red]There should be {storms} of them."),
        f"They are in [bold]{manifests}[/], ready for kubectl apply -f {manifests} (after k8s/crd.yaml).",
        "Next: [bold]stormfold up[/] runs the same, empty, for your own alerts.",
    )
    return good


def _count(folder: Path) -> int:
    """Manifests that are there."""
    return len(list((folder / MANIFESTS).glob("*.yaml")))
