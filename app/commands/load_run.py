"""`load-run`: put the live service under more load than it can caption, and see that it only drops what it must."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from app.commands.options import ConfigOption, ResultConsole, writable


def command(
    config: ConfigOption = None,
    seconds: Annotated[float, typer.Option(min=5, max=1_000_000, help="How long, once the models are loaded.")] = 60,
    cameras: Annotated[int, typer.Option(min=1, max=16, help="Cameras, each a process.")] = 2,
    windows_per_s: Annotated[
        float, typer.Option("--windows-per-s", min=0.1, max=100, help="Windows that arrive, of all cameras together.")
    ] = 10,
    captions_per_s: Annotated[
        float, typer.Option("--captions-per-s", min=0, max=100, help="Captions the model makes at most; 0: all it can.")
    ] = 3,
    events_per_s: Annotated[
        int, typer.Option("--events-per-s", min=1000, max=100_000_000, help="Events of each camera.")
    ] = 100_000,
    network: Annotated[
        bool,
        typer.Option("--network", help="The demo street over dv network streams, with its own events, as cameras."),
    ] = False,
    out: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the findings as JSON.")] = None,
) -> None:
    """Live cameras of pre-made load against a real broker: windows accounted for, ages, memory, stalls."""
    from rich.table import Table

    from app.config import load_config
    from app.faults.load import LoadRun, LoadSettings, failures
    from app.faults.running import progress, run_folder

    writable(out, "--json")
    settings = LoadSettings(seconds, cameras, windows_per_s, captions_per_s, events_per_s, network)
    with run_folder("event-captioner-load-") as folder, progress(every_s=10.0) as tell:
        found = LoadRun(load_config(config), folder, settings).run(tell)
    if out:
        out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    wrong = failures(found)
    table = Table(title="Load run", show_header=False)
    for key, value in found.items():
        shown = ", ".join(f"{name} {count}" for name, count in value.items()) if isinstance(value, dict) else str(value)
        table.add_row(key, shown, "← not as it must be" if key in wrong else "")
    ResultConsole().print(table)
    if wrong:
        raise typer.Exit(1)
