"""`doctor`: what this machine has of what captioning can use, and what to do about what it has not."""

from __future__ import annotations

from dataclasses import asdict

import typer

from app.commands.options import ConfigOption, JsonOption


def command(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Look at models, GPU, TensorRT, ONNX Runtime, cameras and broker; exit code 1 when it cannot run."""
    import json

    from rich.console import Console
    from rich.table import Table

    from app.config import load_config
    from app.doctor import examine

    findings = examine(load_config(config))
    works = all(finding.ok for finding in findings if finding.needed)
    if as_json:
        print(json.dumps({"works": works, "findings": [asdict(finding) for finding in findings]}))
    else:
        table = Table("", "what", "found", "remedy", title_justify="left")
        for finding in findings:
            mark = "ok" if finding.ok else "NO" if finding.needed else "–"
            table.add_row(mark, finding.name, finding.found, "" if finding.ok else finding.remedy)
        Console().print(table, highlight=False, markup=False)
        print("The configured runtimes can work." if works else "The configuration cannot run: see NO.")
    if not works:
        raise typer.Exit(1)
