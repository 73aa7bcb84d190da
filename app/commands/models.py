"""`models inspect` and `models plan`: what a checkpoint is, and what a GPU must hold for a pair of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.commands.options import JsonOption, finite, need_torch

if TYPE_CHECKING:
    from models.inspection import Inspection
    from models.memory_plan import Pairing, Shape

group = typer.Typer(
    name="models",
    help="What a checkpoint is, and where a pair fits. Needs the extra `torch`.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)
GB = 10**9


@group.command()
def inspect(
    checkpoint: Annotated[str, typer.Argument(metavar="PATH_OR_HUB_ID", help="A folder, or a downloaded hub id.")],
    as_json: JsonOption = False,
) -> None:
    """Tell what a checkpoint is without loading it; exit code 1 when tensors are missing or unexpected."""
    need_torch("models inspect")
    from models.inspection import inspect_checkpoint
    from models.towers import find_checkpoint

    found = inspect_checkpoint(find_checkpoint(checkpoint))
    if as_json:
        print(json.dumps(found.figures()))
    else:
        _show(found)
    if not found.comparison.complete:
        raise typer.Exit(1)


@group.command()
def plan(
    gpu_memory: Annotated[
        float, typer.Option(metavar="GB", min=1, callback=finite, help="The GPU's memory, in 10⁹ bytes.")
    ],
    drafter: Annotated[
        str | None, typer.Option(metavar="PATH_OR_HUB_ID", help="EventGPT.", show_default="EventGPT-7B's shape")
    ] = None,
    target: Annotated[
        str | None, typer.Option(metavar="PATH_OR_HUB_ID", help="Video-LLaVA.", show_default="Video-LLaVA-7B's shape")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(metavar="N", min=1, help="Longest caption it is for.")] = 64,
    as_json: JsonOption = False,
) -> None:
    """Compute what a pair takes in each precision, what fits, and the configuration to use."""
    need_torch("models plan")
    from models.memory_plan import EVENTGPT_7B, VIDEO_LLAVA_7B, fits_alone, pairings, shape_of
    from models.towers import find_checkpoint

    shapes = (
        shape_of(find_checkpoint(drafter), "drafter") if drafter else EVENTGPT_7B,
        shape_of(find_checkpoint(target), "target") if target else VIDEO_LLAVA_7B,
    )
    gpu_bytes = int(gpu_memory * GB)
    options = pairings(*shapes, gpu_bytes, max_new_tokens)
    best = next((option for option in options if option.fits), None)
    alone = fits_alone(shapes[1], gpu_bytes, max_new_tokens)
    lines = _configuration(shapes, (drafter, target), best, alone)
    if as_json:
        print(json.dumps(_plan_figures(shapes, options, best, alone, gpu_bytes, max_new_tokens, lines)))
    else:
        _show_plan(shapes, options, best, gpu_bytes, max_new_tokens, lines)


def _show(found: Inspection) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    compared, decoder, vision = found.comparison, found.sizes["decoder"], found.sizes["vision"]
    rows = {
        "model": f"{found.title}, a {found.role}",
        "layout": found.layout,
        "exported": "yes" if found.exported else "no; `event-captioner export` makes a model folder of it",
        "vocabulary": f"{found.vocabulary:,} rows",
        "tokenizer": found.tokenizer,
        "stored as": ", ".join(f"{name} ({count:,})" for name, count in found.dtypes.items()),
        "files": f"{found.file_bytes / GB:.2f} GB" if found.file_bytes >= GB else f"{found.file_bytes / 10**6:.1f} MB",
        "parameters": f"{found.parameters:,} that the network reads",
        "decoder": f"{decoder['num_hidden_layers']} layers, {decoder['hidden_size']} wide, "
        f"{decoder['num_attention_heads']} heads ({decoder['num_key_value_heads']} for keys and values), "
        f"feed-forward {decoder['intermediate_size']}",
        "vision": f"{vision['num_hidden_layers']} layers, {vision['hidden_size']} wide, "
        f"{vision['image_size']} px in patches of {vision['patch_size']}; {found.visual_tokens:,} tokens a window",
        "attention over time": f"over {found.temporal_frames} frames" if found.temporal_frames else "none",
        "unused tensors": f"{len(compared.unused)}, known to be read by nothing",
        "missing": _names(compared.missing),
        "unexpected": _names(compared.unexpected),
        "wrong shape": _names(compared.wrong_shape),
        "loads": "yes" if compared.complete else "no; download the checkpoint again, or mend its config.json",
    }
    table = Table(show_header=False, title=Text(str(found.path)), title_justify="left")
    for name, value in rows.items():
        table.add_row(name, value)
    Console().print(table, highlight=False, markup=False)


def _names(names: list[str], most: int = 8) -> str:
    if not names:
        return "none"
    return "\n".join([*names[:most], *([f"… and {len(names) - most:,} more"] if len(names) > most else [])])


def _configuration(
    shapes: tuple[Shape, Shape], paths: tuple[str | None, str | None], best: Pairing | None, alone: str | None
) -> list[str]:
    """Lines for the configuration file; empty when not even the target fits."""
    if best is None and alone is None:
        return []
    folders = [path or f"../exported/{shape.name.lower()}" for path, shape in zip(paths, shapes, strict=True)]
    precisions = (best.drafter, best.target) if best else ("does not fit beside the target: keep it on the CPU", alone)
    return [
        "models:",
        *(
            f"  {role}: {{path: {json.dumps(folder)}}}  # {precision}"
            for role, folder, precision in zip(("drafter", "target"), folders, precisions, strict=True)
        ),
    ]


def _model_figures(shape: Shape, max_new_tokens: int) -> dict[str, Any]:
    from models.memory_plan import PRECISIONS

    return {
        "name": shape.name,
        "prompt_rows": shape.prompt_rows,
        "weight_bytes": {precision: shape.weight_bytes(precision) for precision in PRECISIONS},
        "cache_bytes": shape.cache_bytes(max_new_tokens),
        "activation_bytes": shape.activation_bytes(),
    }


def _plan_figures(
    shapes: tuple[Shape, Shape],
    options: list[Pairing],
    best: Pairing | None,
    alone: str | None,
    gpu_bytes: int,
    max_new_tokens: int,
    lines: list[str],
) -> dict[str, Any]:
    from dataclasses import asdict

    from models.memory_plan import RESERVE_BYTES

    return {
        "gpu_bytes": gpu_bytes,
        "max_new_tokens": max_new_tokens,
        "drafter": _model_figures(shapes[0], max_new_tokens),
        "target": _model_figures(shapes[1], max_new_tokens),
        "reserve_bytes": RESERVE_BYTES,
        "pairings": [asdict(option) for option in options],
        "best": asdict(best) if best else None,
        "target_alone": alone,
        "configuration": lines,
    }


def _show_plan(
    shapes: tuple[Shape, Shape],
    options: list[Pairing],
    best: Pairing | None,
    gpu_bytes: int,
    max_new_tokens: int,
    lines: list[str],
) -> None:
    from rich.console import Console
    from rich.table import Table

    from models.memory_plan import PRECISIONS, RESERVE_BYTES

    console = Console()
    table = Table("GB", *(f"weights, {name}" for name in PRECISIONS), "cache", "activations", title_justify="left")
    for shape in shapes:
        weights = (f"{shape.weight_bytes(name) / GB:.1f}" for name in PRECISIONS)
        cache, activations = shape.cache_bytes(max_new_tokens) / GB, shape.activation_bytes() / GB
        table.add_row(shape.name, *weights, f"{cache:.2f}", f"{activations:.2f}")
    console.print(table, highlight=False, markup=False)
    table = Table("target", "drafter", "together, GB", f"fits {gpu_bytes / GB:g} GB")
    for option in options:
        verdict = "yes" if option.fits else f"no, {(option.need_bytes - gpu_bytes) / GB:.1f} over"
        table.add_row(option.target, option.drafter, f"{option.need_bytes / GB:.1f}", verdict)
    console.print(table, highlight=False)
    print(f"Together: both models at once, and {RESERVE_BYTES / GB:.1f} GB for the driver.")
    print("16 bit is how the checkpoints are published; int8 and int4 need a runtime that holds its weights so.")
    print("TensorRT's engines hold a decoder's weights two or three times: docs/gpu.md.")
    if best:
        print("\nThe best that fits, for the configuration file:\n")
    elif lines:
        print("\nThe pair does not fit; the target does by itself:\n")
    else:
        least = min(option.need_bytes for option in options) / GB
        print(f"\nNothing fits: the smallest pair takes {least:.1f} GB.")
    print("\n".join(lines))
