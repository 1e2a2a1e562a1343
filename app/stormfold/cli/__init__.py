"""The `stormfold` command: one file per sub-command, imported when it is called. Exit codes: 0 fine, 1 a problem was
found, 2 usage or configuration."""

import logging
import os
from importlib import import_module

import click

from stormfold.errors import ActionRequired, StormfoldError
from stormfold.text import escape_unprintable

COMMANDS = {
    "demo": "Tell an incident on this machine and show its storms forming.",
    "up": "Run an empty local stack until Ctrl-C.",
    "worker": "Run a worker against existing Kafka, Redis and sink.",
    "topics": "Show the topics against what is needed, or create them.",
    "publish": "Publish alerts from a file.",
    "storms": "Show recent storms.",
    "status": "Show lag, horizon, open groups, Redis and sink.",
    "audit": "Prove that every alert is counted once.",
    "dlq": "Show dead letters, or redrive them.",
    "receive": "Take alerts over HTTP: from Alertmanager, Prometheus and others.",
    "replay": "Fold a past range again: bring back missing storms, or try another configuration.",
    "check": "Validate a configuration; say what it makes of an alert.",
}
"""Sub-commands with their place in the list of `--help`; each is `command` in the module of its name."""

EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


class _Commands(click.Group):
    """Imports a sub-command only when it is called: `stormfold --help` answers at once."""

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
            ctx.exit(_tell(error))
        except KeyboardInterrupt:
            ctx.exit(EXIT_INTERRUPTED)


@click.command(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="`stormfold demo` is the place to start. Addresses and credentials come from STORMFOLD_* variables.",
)
@click.version_option(package_name="stormfold", message="%(prog)s %(version)s")
@click.pass_context
def command(ctx: click.Context) -> None:
    """Folds alert storms: alerts in on Kafka, one Kubernetes resource per storm out."""
    if os.environ.get("NO_COLOR"):
        ctx.color = False
    # Errors reach the user once, as ours; a worker, which sets up a log, has the library's records in it all the same.
    logging.getLogger("aiokafka").addHandler(logging.NullHandler())


def main() -> None:
    """Entry point of the `stormfold` script."""
    command(prog_name="stormfold")


def _tell(error: StormfoldError) -> int:
    """Says on one line what is wrong, on another what to do; returns the exit code."""
    from stormfold.config import ConfigError
    from stormfold.settings import SettingsError

    click.secho("stormfold:", err=True, nl=False, bold=True)
    click.echo(f" {escape_unprintable(str(error))}", err=True)
    if isinstance(error, ActionRequired) and error.hint:
        click.echo(f"  -> {escape_unprintable(error.hint)}", err=True)
    return EXIT_USAGE if isinstance(error, ConfigError | SettingsError) else 1
