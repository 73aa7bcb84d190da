"""What only the whole pipeline shows: its own overhead in real time, and its memory over a thousand windows."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from app.bench.windows import MakeWindower
from app.captioner import Captioner
from app.pipeline import run_pipeline
from app.records import Caption, Dropped
from app.sensors.open import open_recording
from app.windows import Window


@dataclass(slots=True)
class _Overhead:
    """Window close to handed-to-outbox, less the time in which a model, the renderer or the preprocessing worked."""

    hand_over: Callable[[Caption], object]  # what the outbox does with it
    ms: list[float] = field(default_factory=list)

    def on_caption(self, caption: Caption) -> None:
        self.hand_over(caption)
        handed = time.monotonic_ns()
        closed = caption.window.closed_ns
        spans = sorted((max(s.start_ns, closed), s.end_ns) for s in caption.spans if s.end_ns > closed)
        busy, last = 0, closed
        for start, end in spans:
            busy += max(0, end - max(start, last))
            last = max(last, end)
        self.ms.append((handed - closed - busy) / 1e6)

    def on_dropped(self, dropped: Dropped) -> None:
        """A dropped window has no overhead."""

    def on_draft(self, window: Window, text: str) -> None:
        """Drafts are not measured."""


def overhead_ms(
    captioner: Captioner,
    recording: Path,
    make_windower: MakeWindower,
    hand_over: Callable[[Caption], object],
) -> list[float]:
    """Replay `recording` in real time through the real pipeline; milliseconds of overhead of each caption."""
    sink = _Overhead(hand_over)

    async def replay() -> None:
        source = open_recording(recording, speed=1.0)
        windower = make_windower(source.info, int(captioner.lead_ms * 1e3))
        await run_pipeline(source, windower, captioner, [sink], lossless=False)

    asyncio.run(replay())
    return sink.ms


@dataclass(slots=True)
class _Memory:
    resident: list[int] = field(default_factory=list)  # bytes after each window

    def on_caption(self, caption: Caption) -> None:
        self.resident.append(resident_bytes())

    def on_dropped(self, dropped: Dropped) -> None:
        self.resident.append(resident_bytes())

    def on_draft(self, window: Window, text: str) -> None:
        """Not measured."""


def resident_bytes() -> int:
    """Resident memory of this process (/proc/self/statm)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


class _Enough(Exception):
    """The wanted number of windows was seen."""


def memory(captioner: Captioner, recording: Path, make_windower: MakeWindower, windows: int) -> dict[str, float]:
    """Loop `recording` at full speed: growth of resident memory after the first tenth of the windows, and its peak."""
    sink = _Memory()

    class Counted(_Memory):
        def on_caption(self, caption: Caption) -> None:
            sink.on_caption(caption)
            if len(sink.resident) >= windows:
                raise _Enough

    async def replay() -> None:
        source = open_recording(recording, speed=None, loop=0)
        await run_pipeline(source, make_windower(source.info, 0), captioner, [Counted()], lossless=True)

    with contextlib.suppress(_Enough):
        asyncio.run(replay())
    tenth = windows // 10
    before = float(np.median(sink.resident[tenth : tenth + 10]))
    after = float(np.median(sink.resident[-10:]))
    return {
        "windows": len(sink.resident),
        "growth": after / before - 1,
        "peak_mib": max(sink.resident) / 2**20,
    }
