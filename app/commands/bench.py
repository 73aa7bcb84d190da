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
        str, typer.Option(metavar="all|A,B", help="Strategies beside autoregressive, the baseline.")
    ] = "all",
    windows: Annotated[int, typer.Option(min=2, max=10_000, help="Windows to caption, each by every strategy.")] = 20,
    recording: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Whose windows come first; streets follow. Left out: the bundled recording."),
    ] = None,
    json_path: Annotated[Path | None, typer.Option("--json", metavar="OUT", help="Write the figures as JSON.")] = None,
    chart: Annotated[
        Path | None, typer.Option(metavar="OUT.png", help="Write the chart. Left out: beside the JSON.")
    ] = None,
    timelines: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Only draw a timeline of each strategy at work (SVG).")
    ] = None,
    peer: Annotated[
        str | None, typer.Option(metavar="transformers", help="Also time transformers' generate (extra `dev`).")
    ] = None,
    injected: Annotated[bool, typer.Option(help="Also study injected acceptance rates (labelled as such).")] = True,
    quality: Annotated[
        bool, typer.Option("--quality", help="How right the captions of the demo pair are, instead of how soon.")
    ] = False,
    gpu_checks: Annotated[
        bool, typer.Option("--gpu-checks", help="Measure an NVIDIA GPU at 7B shapes; exit code 3 without one.")
    ] = False,
    tiny: Annotated[bool, typer.Option("--tiny", hidden=True, help="With --gpu-checks: try it on a CPU.")] = False,
    memory_windows: Annotated[
        int, typer.Option(min=0, max=100_000, help="Loop a recording for so many windows and report memory.")
    ] = 0,
) -> None:
    """Compare the strategies on the same windows, interleaved; print one table and a chart."""
    if gpu_checks:
        writable(json_path, "--json")
        _check_gpu(tiny, json_path)
        return
    from app.bench.chart import write_chart
    from app.bench.quality import print_quality
    from app.bench.report import floor_ms, print_report
    from app.bench.run import Bench, BenchSettings
    from app.commands.demo import RECORDING
    from app.commands.options import TableConsole, need_transformers

    if peer not in (None, "transformers"):
        raise typer.BadParameter(f"{peer!r} is not a peer that is known: transformers", param_hint="--peer")
    if peer:
        need_transformers("bench --peer transformers")
    chart = chart or (json_path.with_suffix(".png") if json_path and json_path.suffix != ".png" else None)
    writable(json_path, "--json")
    writable(chart, "--chart")
    if timelines:
        writable(timelines / "autoregressive.svg" if timelines.is_dir() else timelines, "--timelines")
    what = BenchSettings(
        windows,
        _chosen(strategies),
        peer=peer is not None,
        injected=injected,
        memory_windows=memory_windows,
        recording=recording or (RECORDING if RECORDING.is_file() else None),
    )
    bench = Bench.configured(config, what)
    if timelines:
        for path in bench.timelines(timelines):
            print(path)
        return
    if quality:
        figures = bench.quality()
        print_quality(figures["quality"], TableConsole())
    else:
        figures = bench.run()
        print_report(figures, TableConsole())
        if chart:
            rows, machine = figures["strategies"], figures["machine"]
            title = f"time to the verified caption, {figures['windows']} windows, {machine['processor']}"
            write_chart(chart, rows, floor_ms(rows), f"{title}, {machine['cores']} cores")
    if json_path:
        json_path.write_text(json.dumps(figures, indent=2) + "\n")


def _chosen(text: str) -> tuple[str, ...]:
    """`all`, or names with commas between. Raises typer.BadParameter."""
    from app.decoding.strategies import STRATEGIES

    if text.strip() == "all":
        return tuple(STRATEGIES)
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in names:
        if name not in STRATEGIES:
            raise typer.BadParameter(
                f"{name!r} is not one of {', '.join(STRATEGIES)}, or all", param_hint="--strategies"
            )
    return names


def _check_gpu(tiny: bool, json_path: Path | None) -> None:
    """`--gpu-checks`: the table, or what it would hold and exit code 3."""
    from rich.console import Console

    from app.commands.options import TableConsole, need_torch
    from app.gpu_checks.files import write_result
    from app.gpu_checks.run import print_plan, print_table, run_checks, the_gpu
    from models.runtimes.nvidia import GpuError

    if not tiny:
        try:
            the_gpu()
        except GpuError as error:
            print_plan(str(error))
            raise typer.Exit(3) from None
    need_torch("bench --gpu-checks")
    result = run_checks(tiny, Console(stderr=True).print)
    print_table(result, TableConsole())
    if json_path:
        write_result(result, json_path)
