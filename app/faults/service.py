"""The service under test, as a process: `run` itself, with the feed as its camera and a model that fails on SIGUSR1."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from app.captioner import Captioner
from app.commands.run import serve
from app.config import load_config
from app.faults.feed import FeedClient
from app.live.build import Start
from app.logs import set_up_logging
from app.records import Caption
from app.session import load_captioner
from app.windows import Window


def main(argv: list[str]) -> None:
    """`service CONFIG FEED_PORT`"""
    config = load_config(Path(argv[0]))
    set_up_logging(config.telemetry.log_level, config.telemetry.log_format)
    failures: list[None] = []  # captions that are to fail
    signal.signal(signal.SIGUSR1, lambda *_: failures.append(None))

    def load() -> Captioner:
        captioner = load_captioner(config)
        healthy = captioner.caption

        def caption(window: Window, camera: str = "") -> Caption:
            if failures:
                failures.pop()
                raise RuntimeError("ordered by the fault run")
            return healthy(window, camera)

        captioner.caption = caption  # type: ignore[method-assign]
        return captioner

    serve(config, Start(sources={"front": lambda: FeedClient(int(argv[1]))}, load=load))


if __name__ == "__main__":
    main(sys.argv[1:])
