"""`fault-run`: break everything around the service again and again, and count what was lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from app.commands.options import ConfigOption, ResultConsole, writable


def command(
    config: ConfigOption = None,
    rounds: Annotated[int, typer.Option(metavar="N", min=1, max=100_000, help="Faults to inject.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Of their order and times.")] = 0,
    out: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the findings as JSON.")] = None,
) -> None:
    """Broker, source, worker and process fail in random order; every committed caption must arrive."""
    from rich.table import Table

    from app.config import load_config
    from app.faults.rounds import FaultRun, failures
    from app.faults.running import progress, run_folder

    writable(out, "--json")
    settings = load_config(config)
    with run_folder("event-captioner-faults-") as folder, progress() as tell:
        found = FaultRun(settings, folder, seed).run(rounds, tell)
    if out:
        out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    wrong = failures(found)
    table = Table(title="Fault run", show_header=False)
    for key, value in found.items():
        if key != "faults":
            table.add_row(key, str(value), "← not as it must be" if key in wrong else "")
    for name, count in found["faults"].items():
        table.add_row(f"  {name}", str(count))
    ResultConsole().print(table)
    if wrong:
        raise typer.Exit(1)
