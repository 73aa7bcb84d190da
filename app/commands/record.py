"""`record`: the cameras as AEDAT4, with their captions beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from app.commands.options import ConfigOption, finite


def command(
    config: ConfigOption = None,
    folder: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where to.", show_default="recording.folder")
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(metavar="S", min=0.1, callback=finite, help="Stop after so long.", show_default="recording.max_s"),
    ] = None,
    mqtt: Annotated[bool, typer.Option("--mqtt", help="Publish as well, as `run` does.")] = False,
) -> None:
    """Record all cameras and their captions until Ctrl-C; to record while `run` runs, send it the command `record`."""
    from app.commands.run import serve
    from app.config import load_config, override
    from app.live.build import Start
    from app.live.service import Service
    from app.logs import set_up_logging

    settings = load_config(config)
    if folder is not None:
        settings = override(settings, recording={"folder": str(folder)})
    settings = override(settings, service={"port": settings.service.port if mqtt else None})
    set_up_logging(settings.telemetry.log_level, settings.telemetry.log_format)

    def tell(service: Service) -> None:
        for name in service.recorder.state()["files"]:
            print(service.recorder.folder / name)

    serve(settings, Start(record_s=seconds or settings.recording.max_s, publish=mqtt, on_stop=tell))
