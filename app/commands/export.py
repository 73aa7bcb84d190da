"""`export CHECKPOINT OUT`: a checkpoint becomes a model folder that needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from app.commands.options import JsonOption


def command(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="Folder of an EventGPT or Video-LLaVA.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The model folder to make, or CHECKPOINT itself.")],
    s_max: Annotated[
        int | None, typer.Option(metavar="ROWS", min=16, help="Cache rows.", show_default="prompt + new tokens")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(metavar="N", min=1, help="Longest caption it is for.")] = 64,
    name: Annotated[
        str | None, typer.Option(help="The model's name in payloads.", show_default="the checkpoint's folder")
    ] = None,
    compute: Annotated[
        Literal["float32", "float16"], typer.Option(help="What the graphs compute in; float16 is for GPUs.")
    ] = "float32",
    as_json: JsonOption = False,
) -> None:
    """Export a checkpoint to ONNX, with a parity check. Needs the extra `torch`."""
    import json

    from rich.console import Console

    from app.commands.options import need_torch

    need_torch("export")
    from export.checkpoint import export_checkpoint

    console = Console(stderr=True)
    with console.status("exporting …"):
        manifest = export_checkpoint(
            checkpoint,
            out,
            s_max,
            max_new_tokens=max_new_tokens,
            name=name,
            compute=compute,
            report=console.print,
        )
    print(json.dumps(manifest) if as_json else f"{out}: written")
