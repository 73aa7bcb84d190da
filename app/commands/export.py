"""`export CHECKPOINT OUT`: a checkpoint becomes a model folder that needs no torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from app.commands.options import JsonOption

if TYPE_CHECKING:
    from rich.console import Console

    from models.runtimes.engine_files import EngineSet


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
    runtime: Annotated[
        Literal["onnx", "tensorrt"], typer.Option(help="tensorrt: build engines as well, for this machine's GPU.")
    ] = "onnx",
    precision: Annotated[
        Literal["fp32", "fp16", "bf16", "int8", "int4", "fp8"] | None,
        typer.Option(help="int8, int4, fp8: of the decoder's weights.", show_default="onnx fp32, tensorrt fp16"),
    ] = None,
    capability: Annotated[
        str | None, typer.Option("--compute-capability", metavar="8.9", help="Build engines for this GPU instead.")
    ] = None,
    chunk: Annotated[
        int | None, typer.Option(min=32, help="Tokens at most in a pass of an engine.", show_default="all of the cache")
    ] = None,
    compact: Annotated[
        bool, typer.Option("--compact", help="Engines that hold the weights once; decoding may be slower.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Export a checkpoint to ONNX, with a parity check, and to TensorRT. Needs the extra `torch`.

    A folder that is exported already, given as CHECKPOINT and OUT, only gets engines: for that no torch is needed.
    """
    import json

    from rich.console import Console

    from app.commands.options import need_torch

    precision = precision or ("fp32" if runtime == "onnx" else "fp16")
    if runtime == "tensorrt":
        if precision == "fp32":
            raise typer.BadParameter("TensorRT's attention has no fp32; fp16 or bf16", param_hint="--precision")
        _need_tensorrt(capability, precision)
    elif precision == "bf16":
        raise typer.BadParameter("bf16 is for --runtime tensorrt", param_hint="--precision")
    elif capability or chunk or compact:
        raise typer.BadParameter("only with --runtime tensorrt", param_hint="--compute-capability, --chunk, --compact")
    console = Console(stderr=True)
    same = checkpoint.resolve() == out.resolve()
    manifest = _exported(out, precision) if runtime == "tensorrt" and same else None
    if manifest is None:
        need_torch("export")
        from export.checkpoint import export_checkpoint

        with _ended_in_order(), console.status("exporting …"):
            manifest = export_checkpoint(
                checkpoint,
                out,
                s_max,
                max_new_tokens=max_new_tokens,
                name=name,
                compute=_compute(runtime, precision),
                packing=_PACKINGS.get(precision),
                report=console.print,
            )
    if runtime == "tensorrt":
        manifest = manifest | {"engines": _build(out, precision, capability, chunk, console, compact)}
    print(json.dumps(manifest) if as_json else f"{out}: written")


_MOST_COMPARED = 2 << 30  # bytes of weights that ONNX Runtime is made to run beside the engines
_PACKINGS: dict[str, Literal["int8", "int4", "fp8"]] = {"int8": "int8", "int4": "int4", "fp8": "fp8"}


def _compute(runtime: str, precision: str) -> Literal["float32", "float16", "bfloat16"]:
    """What the graphs compute in."""
    if precision == "bf16":
        return "bfloat16"
    return "float16" if precision == "fp16" or runtime == "tensorrt" else "float32"


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """SIGTERM ends the export as an error does: of what is half made, up to 14 GB, nothing is left behind."""
    import signal

    def end(*_: object) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _exported(folder: Path, precision: str) -> dict[str, Any] | None:
    """The folder's manifest, if its graphs already are of this precision. Raises CheckpointError for a damaged one."""
    from models.checkpoint import read_json
    from models.manifest import MANIFEST

    if not (folder / MANIFEST).is_file():
        return None
    manifest = read_json(folder / MANIFEST)
    found, weights = manifest.get("precision"), _PACKINGS.get(precision)
    if not isinstance(found, dict):
        return None
    same = (found.get("compute"), found.get("weights")) == (_compute("tensorrt", precision), weights)
    return manifest if same else None


def _need_tensorrt(capability: str | None, precision: str) -> None:
    """Fail before the long part: without TensorRT, a GPU to build for, or its fp8. Raises ModelError."""
    from models.runtimes.nvidia import find_gpu, need_precision, tensorrt

    tensorrt()
    need_precision(precision, capability or find_gpu().capability)


def _build(
    out: Path, precision: str, capability: str | None, chunk: int | None, console: Console, compact: bool
) -> dict[str, Any]:
    import json
    from dataclasses import asdict

    from rich.progress import Progress

    from export.engines import build_engines
    from models.runtimes.memory import weight_bytes

    with Progress(console=console, transient=True) as bar:
        tasks: dict[str, Any] = {}

        def step(phase: str, done: int, steps: int) -> None:
            if phase not in tasks:
                tasks[phase] = bar.add_task(phase, total=steps)
            bar.update(tasks[phase], completed=done)

        built = build_engines(out, precision, console.print, capability, chunk, step, compact=compact)
    if capability:
        console.print("parity: not compared, the engines are for another GPU")
    elif weight_bytes(json.loads((out / "manifest.json").read_text())) > _MOST_COMPARED:
        console.print("parity: not compared, the model is too large to run on the CPU as well")
    elif precision == "bf16":
        console.print("parity: not compared, ONNX Runtime has no bf16 on a CPU")
    else:
        with console.status("comparing …"):
            built = _compared(out, built, console)
    return asdict(built)


def _compared(out: Path, built: EngineSet, console: Console) -> EngineSet:
    """The engines with their parity in the manifest; without a manifest, so that nothing uses them, if they differ."""
    from dataclasses import replace

    from export.parity import check_engines
    from models.errors import ModelError
    from models.runtimes.engine_files import ENGINES

    try:
        built = replace(built, parity=check_engines(out, console.print))
    except ModelError:
        (out / ENGINES).unlink(missing_ok=True)
        raise
    built.write(out)
    return built
