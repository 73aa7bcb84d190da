"""`check-config F`: is this configuration right, and what does it come to?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from app.commands.options import JsonOption


def command(
    file: Annotated[Path | None, typer.Argument(metavar="FILE", help="The configuration to check.")] = None,
    as_json: JsonOption = False,
    write_schema: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the JSON Schema that editors use for completion.")
    ] = None,
) -> None:
    """Check a configuration: one line for each mistake, with its line number."""
    from app.config import json_schema, load_config

    if write_schema:
        write_schema.write_text(json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"{write_schema}: written")
    if file is None:
        if write_schema is None:
            raise typer.BadParameter("name a file to check, or --write-schema FILE", param_hint="FILE")
        return
    config = load_config(file)
    if as_json:
        print(config.model_dump_json(indent=2))
    else:
        print(f"{file}: is valid")
