"""`demo`: the bundled recording through the bundled pair, in real time, over MQTT, before your eyes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from app.commands.options import ResultConsole, writable

PROJECT = Path(__file__).parents[2]
RECORDING = PROJECT / "models" / "demo" / "recording.aedat4"
CONFIG = PROJECT / "configs" / "demo.yaml"


def command(
    config: Annotated[
        Path,
        typer.Option("--config", "-c", metavar="FILE", help="Configuration (YAML).", show_default="configs/demo.yaml"),
    ] = CONFIG,
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE.svg", help="Also save what is shown as a picture.")
    ] = None,
) -> None:
    """Replay the bundled recording in real time, publish its captions, and compare with the target alone."""
    from app.commands.playing import play
    from app.config import load_config, override
    from app.logs import set_up_logging
    from app.publishing.embedded import find_or_start_broker
    from app.sensors.open import open_recording
    from app.session import Outputs

    writable(picture, "--picture")
    settings = override(load_config(config), replay={"speed": 1.0})  # a demo is watched
    set_up_logging(settings.telemetry.log_level, settings.telemetry.log_format)
    console = ResultConsole()
    with find_or_start_broker(settings.mqtt.url) as broker:
        host, _, port = broker.url.rpartition("/")[2].rpartition(":")
        console.print(f"broker: {broker.kind} at {broker.url}; listen along with:", highlight=False)
        console.print(f"  mosquitto_sub -h {host} -p {port} -t '{settings.root}/#' -v\n", highlight=False)
        play(
            settings,
            lambda: open_recording(RECORDING, speed=1.0),
            Outputs(mqtt=broker.url),
            compare=True,
            console=console,
            picture=picture,
        )
