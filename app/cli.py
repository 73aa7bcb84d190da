"""The commands, each in a file of app/commands, imported when it is asked for; and what an error looks like."""

from __future__ import annotations

import os
import sys
from importlib import import_module

import typer
from typer.core import TyperCommand, TyperGroup

from app.yaml_source import ConfigError

COMMANDS = (
    *("run", "record", "fault-run", "load-run"),
    *("demo", "replay", "info", "bench", "simulate"),
    *("export", "models", "train-demo", "synthesize", "check-config", "cameras", "doctor"),
)
OUR_PACKAGES = ("app", "models", "export")


class LazyCommands(TyperGroup):
    """Command `a-b` is the function `command` of app/commands/a_b.py, or the Typer `group` of several there."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        return list(COMMANDS)

    def get_command(self, ctx: typer.Context, cmd_name: str) -> TyperCommand | None:  # type: ignore[override]
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"app.commands.{cmd_name.replace('-', '_')}")
        if hasattr(module, "group"):
            return typer.main.get_group(module.group)  # type: ignore[return-value]
        holder = typer.Typer(add_completion=False)
        holder.command(cmd_name)(module.command)
        return typer.main.get_command(holder)  # type: ignore[return-value]


cli = typer.Typer(
    cls=LazyCommands,
    name="event-captioner",
    help="Verified captions from an event camera and an RGB camera.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@cli.callback()
def root() -> None:
    """Verified captions from an event camera and an RGB camera."""


def main() -> None:
    """Run a command. Exit code 2 for usage and configuration, 1 for other errors, 130 for Ctrl-C."""
    try:
        cli()
    except Exception as error:
        leaves = _leaves(error)
        our = next((e for e in leaves if type(e).__module__.partition(".")[0] in OUR_PACKAGES), None)
        if our is not None:
            _fail(str(our), 2 if isinstance(our, ConfigError) else 1)
        system = next((e for e in leaves if isinstance(e, OSError)), None)
        if system is None:
            raise  # a bug: its traceback is what we need to see
        if isinstance(system, BrokenPipeError):  # who read the output has gone: there is nobody to tell
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            sys.exit(1)
        _fail(f"{system.filename}: {system.strerror}" if system.filename and system.strerror else str(system), 1)


def _leaves(error: BaseException) -> list[BaseException]:
    """The errors that a task group may have wrapped."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]


def _fail(message: str, code: int) -> None:
    for line in message.splitlines():
        print(f"event-captioner: {line}", file=sys.stderr)
    sys.exit(code)
