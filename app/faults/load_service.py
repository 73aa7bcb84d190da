"""The service under load, as a process: `run` itself, pre-made load, a model of bounded speed, a pulse of the loop."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import numpy as np

from app.camera_config import CameraConfig
from app.captioner import Captioner
from app.commands.run import serve
from app.config import load_config
from app.faults.load_camera import LoadSource
from app.live.build import Start, open_camera
from app.live.service import Service
from app.logs import set_up_logging
from app.records import Caption
from app.sensors.contract import CapturedSource, Events, Item, Source, SourceInfo
from app.session import load_captioner
from app.windows import Window

BEAT_S = 0.001
LONGEST_MS = 2_000  # longer ones count as so long, and the most is told as it is
WARM_S = 3.0  # the first seconds after the models are loaded do not count


class Times:
    """Milliseconds in tenths, counted: as many as there are take no more memory."""

    def __init__(self) -> None:
        self._counts, self._most = np.zeros(LONGEST_MS * 10 + 1, np.int64), 0.0

    def add(self, ms: float) -> None:
        self._most = max(self._most, ms)
        self._counts[min(int(ms * 10), LONGEST_MS * 10)] += 1

    def figures(self, name: str) -> dict[str, float]:
        """Median, the 99.9th of a hundred, and the most."""
        below = np.cumsum(self._counts) / max(1, self._counts.sum())
        p50, p999 = (float(np.searchsorted(below, share)) / 10 for share in (0.5, 0.999))
        return {f"{name}_p50_ms": p50, f"{name}_p999_ms": p999, f"{name}_max_ms": round(self._most, 1)}


class Pulse:
    """How long the event loop was away between two beats, and how much of that it worked itself."""

    def __init__(self) -> None:
        self._away, self._worked = Times(), Times()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """On the running loop; once."""
        self._task = self._task or asyncio.create_task(self._beat())

    async def _beat(self) -> None:
        await asyncio.sleep(WARM_S)
        while True:
            wall_ns, cpu_ns = time.perf_counter_ns(), time.thread_time_ns()
            await asyncio.sleep(BEAT_S)
            self._away.add(max(0.0, (time.perf_counter_ns() - wall_ns) / 1e6 - 1000 * BEAT_S))
            self._worked.add((time.thread_time_ns() - cpu_ns) / 1e6)

    def figures(self) -> dict[str, float]:
        """`stall`: by the clock; `worked`: of the loop's own, free of what other programs did to the cores."""
        return self._away.figures("stall") | self._worked.figures("worked")


class Watched:
    """A source of the run, its events counted; `on_read` is called when somebody begins to read."""

    def __init__(self, source: CapturedSource, on_read: Callable[[], None]) -> None:
        self._source, self._on_read = source, on_read
        self.events = 0  # that came through the pipe

    @property
    def info(self) -> SourceInfo:
        return self._source.info

    @property
    def trouble(self) -> Mapping[str, str]:
        return self._source.trouble

    @property
    def dropped(self) -> Mapping[str, int]:
        return self._source.dropped

    async def __aiter__(self) -> AsyncIterator[Item]:
        self._on_read()
        async for item in self._source:
            if isinstance(item, Events):
                self.events += len(item)
            yield item

    async def close(self) -> None:
        await self._source.close()


class Load:
    """Cameras, model and books of one run."""

    def __init__(self, captions_per_s: float) -> None:
        self._least_s = 1 / captions_per_s if captions_per_s else 0.0
        self._pulse = Pulse()
        self._sources: list[Watched] = []

    def watched(self, source: CapturedSource) -> Watched:
        """The source, counted from now on."""
        self._sources.append(Watched(source, self._pulse.start))
        return self._sources[-1]

    def bounded(self, load: Callable[[], Captioner]) -> Captioner:
        """The captioner, no quicker than told: capacity is what the run says, on any machine."""
        captioner = load()
        quick = captioner.caption

        def caption(window: Window, camera: str = "") -> Caption:
            until_s = time.monotonic() + self._least_s
            made = quick(window, camera)
            time.sleep(max(0.0, until_s - time.monotonic()))
            return made

        captioner.caption = caption  # type: ignore[method-assign]
        return captioner

    def books(self, service: Service) -> dict[str, object]:
        """What became of every window, and how the loop fared."""
        lost = [camera.lost for camera in service.cameras.values()]
        return {
            "cameras": {
                name: {"arrived": c.arrived, "captioned": c.captioned, "dropped": dict(c.dropped)}
                for name, c in service.counts.items()
            },
            "events": sum(source.events for source in self._sources),
            "events_left_out": sum(source.dropped["events"] for source in self._sources),
            "events_over_limit": sum(what["excess_events"] for what in lost),
            "late_events": sum(what["late_events"] for what in lost),
            "loop": self._pulse.figures(),
        }


def main(argv: list[str]) -> None:
    """`load_service CONFIG BOOKS EVENTS_PER_S CAPTIONS_PER_S`; cameras that are not live give pre-made load."""
    config = load_config(Path(argv[0]))
    set_up_logging(config.telemetry.log_level, config.telemetry.log_format)
    load, events_per_s = Load(float(argv[3])), int(argv[2])

    def opener(camera: CameraConfig) -> Callable[[], Source]:
        def open_source() -> Source:
            if camera.source != "live":
                return load.watched(LoadSource(events_per_s))
            source = open_camera(camera)
            assert isinstance(source, CapturedSource)
            return load.watched(source)

        return open_source

    def write(service: Service) -> None:
        Path(argv[1]).write_text(json.dumps(load.books(service)))

    start = Start(
        sources={name: opener(camera) for name, camera in config.cameras.items()},
        load=lambda: load.bounded(lambda: load_captioner(config)),
        on_stop=write,
    )
    serve(config, start)


if __name__ == "__main__":
    main(sys.argv[1:])
