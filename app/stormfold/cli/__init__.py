"""The `stormfold` command: one file per sub-command, imported when it is called.

Exit codes: 0 success, 1 a problem was found, 2 wrong usage, settings or configuration, 130 interrupted.
"""

import io
import logging
import os
import sys
from importlib import import_module
from pathlib import Path

import click

from stormfold.errors import StormfoldError

COMMANDS = {
    "demo": "Replay a simulated incident on this machine and show its storms.",
    "up": "Run a local stack, without alerts, until Ctrl-C.",
    "worker": "Run a worker with existing Kafka, Redis and sink.",
    "topics": "Check the topics, or create them.",
    "publish": "Publish alerts from a file.",
    "incidents": "Show recent incidents.",
    "storms": "Show recent storms.",
    "status": "Show lag, horizon, open groups, Redis and sink.",
    "audit": "Verify that every alert was counted exactly once.",
    "dlq": "Show dead letters, or redrive them.",
    "receive": "Receive alerts over HTTP, from Alertmanager, Prometheus and others.",
    "replay": "Fold a past range again: restore missing storms, or try another configuration.",
    "check": "Validate a configuration, and show how it treats an alert.",
}
"""Sub-commands in the order of `--help`. Each is `command` in the module of its name."""

EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


class _Commands(click.Group):
    """Imports a sub-command only when it is called, so that `stormfold --help` answers at once."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"stormfold.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except StormfoldError as error:
            ctx.exit(_report(error))
        except KeyboardInterrupt:
            ctx.exit(EXIT_INTERRUPTED)


@click.command(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Start with `stormfold demo`. Addresses and credentials come from STORMFOLD_* variables.",
)
@click.version_option(package_name="stormfold", message="%(prog)s %(version)s")
@click.pass_context
def command(ctx: click.Context) -> None:
    """Folds alert storms: reads alerts from Kafka and creates one Kubernetes resource per storm."""
    if os.environ.get("NO_COLOR"):
        ctx.color = False
    # Errors are reported once, by stormfold. A worker configures logging and still has the records of the library.
    logging.getLogger("aiokafka").addHandler(logging.NullHandler())


def main() -> None:
    """Entry point of the `stormfold` script."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # It was closed. Without this a socket could get its number, which libuv does not expect.
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        # Alerts hold any text, and a terminal may have an encoding that cannot express it.
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
    command(prog_name="stormfold")


def _report(error: StormfoldError) -> int:
    """Prints what is wrong on one line and the hint on another. Returns the exit code."""
    from stormfold.cli.output import print_problem
    from stormfold.config import ConfigError
    from stormfold.settings import SettingsError

    click.secho("stormfold: ", err=True, nl=False, bold=True)
    print_problem(str(error), error.hint)
    return EXIT_USAGE if isinstance(error, ConfigError | SettingsError) else 1
