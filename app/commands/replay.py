"""`replay RECORDING`: a recording becomes verified captions, on MQTT, in files and on the screen."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from app.commands.options import (
    ConfigOption,
    JsonOption,
    RecordingArgument,
    SpeedOption,
    finite,
    parse_speed,
    writable,
)
from app.decoding.names import StrategyName


class Frames(StrEnum):
    recorded = "recorded"
    reconstruct = "reconstruct"


def command(
    recording: RecordingArgument,
    config: ConfigOption = None,
    strategy: Annotated[StrategyName | None, typer.Option(help="The schedule of the two models.")] = None,
    speed: SpeedOption = None,
    start: Annotated[
        float, typer.Option(metavar="S", min=0, callback=finite, help="Begin so many seconds into the recording.")
    ] = 0.0,
    duration: Annotated[
        float | None,
        typer.Option(metavar="S", min=0.001, callback=finite, help="Play so many seconds of it.", show_default="all"),
    ] = None,
    loop: Annotated[int, typer.Option(metavar="N", min=0, help="Play it N times; 0: until Ctrl-C.")] = 1,
    captions: Annotated[
        Path | None, typer.Option(metavar="OUT", help="Write the captions to a .jsonl, .vtt or .srt file.")
    ] = None,
    trace: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write every stage to a Chrome/Perfetto trace.")
    ] = None,
    mqtt: Annotated[str | None, typer.Option(metavar="URL", help="Publish to this broker.")] = None,
    no_mqtt: Annotated[bool, typer.Option("--no-mqtt", help="Publish nothing.")] = False,
    frames: Annotated[
        Frames, typer.Option(help="The recording's own frames, or frames rendered from its events.")
    ] = Frames.recorded,
    rgb: Annotated[Path | None, typer.Option(metavar="VIDEO", help="Take the frames from a video file.")] = None,
    rgb_offset_ms: Annotated[
        float, typer.Option(metavar="N", callback=finite, help="The video begins so many ms after the recording.")
    ] = 0.0,
    as_json: JsonOption = False,
) -> None:
    """Caption a recording, in real time or as fast as the models allow."""
    from app.commands.playing import play
    from app.config import load_config, override
    from app.logs import set_up_logging
    from app.publishing.broker import parse_url
    from app.publishing.errors import PublishError
    from app.publishing.files import SUFFIXES
    from app.sensors.open import open_recording
    from app.session import Outputs

    if mqtt and no_mqtt:
        raise typer.BadParameter("--mqtt and --no-mqtt exclude each other", param_hint="--mqtt")
    if rgb and frames is Frames.reconstruct:
        raise typer.BadParameter("--rgb and --frames reconstruct exclude each other", param_hint="--rgb")
    if captions and captions.suffix.lower() not in SUFFIXES:
        raise typer.BadParameter(f"{captions}: the name must end in {', '.join(SUFFIXES)}", param_hint="--captions")
    writable(captions, "--captions")
    writable(trace, "--trace")
    if mqtt:
        try:
            parse_url(mqtt)
        except PublishError as error:
            raise typer.BadParameter(str(error), param_hint="--mqtt") from None
    settings = load_config(config)
    if strategy:
        settings = override(settings, decoding={"strategy": strategy})
    pace = parse_speed(speed, settings.replay.speed)
    settings = override(settings, replay={"speed": pace or "max"})
    set_up_logging(settings.telemetry.log_level, settings.telemetry.log_format)
    play(
        settings,
        lambda: open_recording(
            recording,
            start_s=start,
            duration_s=duration,
            speed=pace,
            loop=loop,
            rgb=rgb,
            rgb_offset_ms=rgb_offset_ms,
            reconstruct=frames is Frames.reconstruct,
        ),
        Outputs(None if no_mqtt else mqtt or (settings.mqtt.url if settings.mqtt.enabled else None), captions, trace),
        as_json=as_json,
    )
