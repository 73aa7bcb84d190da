"""The commands, each in a file of app/commands, imported when it is asked for; and what an error looks like."""

from __future__ import annotations

import sys
from importlib import import_module

import typer
from typer.core import TyperCommand, TyperGroup

from app.yaml_source import ConfigError

COMMANDS = ("demo", "replay", "info", "bench", "export", "models", "train-demo", "synthesize", "check-config")
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
    except ConfigError as error:
        _fail(str(error), 2)
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error), 1)
    except Exception as error:
        our = next((e for e in _leaves(error) if type(e).__module__.partition(".")[0] in OUR_PACKAGES), None)
        if our is None:
            raise  # a bug: its traceback is what we need to see
        _fail(str(our), 2 if isinstance(our, ConfigError) else 1)


def _leaves(error: BaseException) -> list[BaseException]:
    """The errors that a task group may have wrapped."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]


def _fail(message: str, code: int) -> None:
    for line in message.splitlines():
        print(f"event-captioner: {line}", file=sys.stderr)
    sys.exit(code)
