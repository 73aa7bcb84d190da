"""What several commands share: options, the console for results, and what is said when an extra is not installed."""

from __future__ import annotations

import errno
import importlib.util
import math
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", metavar="FILE", readable=False, help="Configuration (YAML). Left out: the defaults."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
RecordingArgument = Annotated[
    Path,
    typer.Argument(
        metavar="RECORDING", readable=False, help="AEDAT4, AEDAT 3.1 or 2.0, DSEC (HDF5), or EventGPT's .npy."
    ),
]
SpeedOption = Annotated[
    str | None,
    typer.Option("--speed", metavar="N|max", help="1 is real time, 2 twice as fast; max: as fast as the models allow."),
]


def finite(value: float | None) -> float | None:
    """A typer callback: neither inf nor nan is a number of seconds. Raises typer.BadParameter."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number")
    return value


def writable(path: Path | None, option: str) -> None:
    """Refuse a file that cannot be written, before anything is loaded. Raises typer.BadParameter."""
    if path is None:
        return
    if not path.parent.is_dir():
        raise typer.BadParameter(f"{path}: there is no folder {path.parent}; make it first", param_hint=option)
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise typer.BadParameter(
            f"{path}: cannot be written; name a file in a folder you may write to", param_hint=option
        )


class ResultConsole(Console):
    """Standard output. When its reader has gone (`… | head`), that is an error which ends the work in good order."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


class TableConsole(ResultConsole):
    """For tables of many columns: a file or a pipe is as wide as they want, a terminal is as wide as it is."""

    def __init__(self) -> None:
        super().__init__()
        if not self.is_terminal:
            self.width = max(self.width, 170)


def parse_speed(text: str | None, configured: float | str) -> float | None:
    """Times real time, or None for `max`. Raises typer.BadParameter."""
    value: float | str = configured if text is None else text
    if value == "max":
        return None
    try:
        speed = float(value)
    except ValueError:
        speed = 0.0
    if not 0 < speed <= 1000:
        raise typer.BadParameter(f"{text!r} is neither max nor a number above 0 to 1000", param_hint="--speed")
    return speed


def need_torch(command: str) -> None:
    """Say in one line what is missing where torch is not installed."""
    if importlib.util.find_spec("torch") is None:
        raise MissingExtra(f"{command}: needs PyTorch; run `make setup` in the clone, or pip install -e '.[torch]'")


def need_transformers(command: str) -> None:
    """The same of the peer's packages."""
    need_torch(command)
    if importlib.util.find_spec("transformers") is None:
        raise MissingExtra(f"{command}: needs transformers; run `make setup` in the clone, or pip install -e '.[dev]'")


class MissingExtra(Exception):
    """A command whose packages are not installed."""
