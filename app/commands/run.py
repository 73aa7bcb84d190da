"""`run`: the live service: cameras in, verified captions out over MQTT, until it is told to stop."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING

from app.commands.options import ConfigOption

if TYPE_CHECKING:
    from app.config import Config
    from app.live.build import Start


def command(config: ConfigOption = None) -> None:
    """Caption live cameras over MQTT until SIGTERM or Ctrl-C; see docs/run.md."""
    from app.config import load_config
    from app.live.build import Start
    from app.logs import set_up_logging

    settings = load_config(config)
    set_up_logging(settings.telemetry.log_level, settings.telemetry.log_format)
    serve(settings, Start())


def serve(config: Config, start: Start) -> None:
    """Run the service to its end. A thread that is stuck in a model would keep the interpreter from ending."""
    from app.live.build import run_service
    from app.live.worker import ServiceError

    try:
        clean = asyncio.run(run_service(config, start))
    except ServiceError as error:
        print(f"event-captioner: {error}", file=sys.stderr, flush=True)
        os._exit(1)
    if not clean:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
