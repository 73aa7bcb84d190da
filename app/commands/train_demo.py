"""`train-demo`: the demo pair from nothing, seeded and resumable, then exported so that it can caption at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from app.commands.options import JsonOption


def command(
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the work and the pair go.")] = Path("runs/demo"),
    smoke: Annotated[bool, typer.Option("--smoke", help="A pair that speaks badly, in minutes.")] = False,
    longer: Annotated[
        float, typer.Option(min=0.1, max=100, help="So many times the data and the steps: for a GPU, or a night.")
    ] = 1.0,
    as_json: JsonOption = False,
) -> None:
    """Train the demo pair; a second call goes on where the first one stopped. Needs the extra `torch`."""
    import json

    from rich.console import Console

    from app.commands.options import need_torch

    need_torch("train-demo")
    from export.checkpoint import export_checkpoint
    from models.demo.train import train_demo

    console = Console(stderr=True, highlight=False)
    quality = train_demo(out, smoke, longer)
    for role in ("target", "drafter"):
        export_checkpoint(out / role, out / role, demo=True, name=f"demo-{role}", report=console.print)
    if as_json:
        print(json.dumps(quality))
    else:
        print(f"{out}: the folders target and drafter are ready; name them under models: in a configuration")
