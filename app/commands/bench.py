"""`bench`: measure every strategy, the peer and the program around them, in one run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from app.commands.options import ConfigOption, writable


def command(
    config: ConfigOption = None,
    strategies: Annotated[
        str, typer.Option(metavar="A,B", help="Strategies beside autoregressive, the baseline.")
    ] = "speculative,prefill_hiding",
    windows: Annotated[int, typer.Option(min=2, max=10_000, help="Windows to caption, each by every strategy.")] = 50,
    json_path: Annotated[Path | None, typer.Option("--json", metavar="OUT", help="Write the figures as JSON.")] = None,
    peer: Annotated[
        str | None, typer.Option(metavar="transformers", help="Also time transformers' generate (extra `dev`).")
    ] = None,
    injected: Annotated[bool, typer.Option(help="Also study injected acceptance rates (labelled as such).")] = True,
    quality: Annotated[
        bool, typer.Option("--quality", help="How right the captions of the demo pair are, instead of how soon.")
    ] = False,
    memory_windows: Annotated[
        int, typer.Option(min=0, max=100_000, help="Loop a recording for so many windows and report memory.")
    ] = 0,
) -> None:
    """Compare the strategies on windows that training never saw; print one table."""
    from rich.console import Console

    from app.bench.quality import print_quality
    from app.bench.report import print_report
    from app.bench.run import Bench, BenchSettings
    from app.config import load_config
    from app.decoding.strategies import STRATEGIES
    from app.session import captioner_settings, load_pair

    chosen = tuple(name.strip() for name in strategies.split(",") if name.strip())
    for name in chosen:
        if name not in STRATEGIES:
            raise typer.BadParameter(f"{name!r} is not one of {', '.join(STRATEGIES)}", param_hint="--strategies")
    if peer not in (None, "transformers"):
        raise typer.BadParameter(f"{peer!r} is not a peer that is known: transformers", param_hint="--peer")
    writable(json_path, "--json")
    settings = load_config(config)
    what = BenchSettings(
        strategies=chosen,
        windows=windows,
        peer=peer is not None,
        injected=injected,
        memory_windows=memory_windows,
        length_us=settings.windows.length_ms * 1000,
        hop_us=settings.windows.length_ms * 1000,
    )
    console = Console(stderr=True)
    models = load_pair(settings)
    bench = Bench(models, captioner_settings(settings, models[0].demo), what, settings.model_path("target"), console)
    if quality:
        figures = bench.quality()
        print_quality(figures["quality"], Console())
    else:
        figures = bench.run()
        print_report(figures, Console())
    if json_path:
        json_path.write_text(json.dumps(figures, indent=2) + "\n")
