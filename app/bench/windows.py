"""The windows that are measured: a recording's, then those of streets that training never saw; read as a user's are."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from app.sensors.contract import SourceError, SourceInfo
from app.sensors.open import open_recording
from app.sensors.synthetic import RESOLUTION, synthetic_items
from app.sensors.writer import write_recording
from app.windower import Windower
from app.windows import Window

FIRST_SEED = 2_000_000  # training stays below 1,000,000; nobody tunes on these
SECONDS = 12.0  # of one recording: every scene is another street

MakeWindower = Callable[[SourceInfo, int], Windower]  # the source and the lead in µs


@dataclass(frozen=True, slots=True)
class BenchWindow:
    """A closed window, and what there was of it `lead` before it closed."""

    closed: Window
    partial: Window | None


async def make_windows(
    count: int,
    make_windower: MakeWindower,
    lead_us: int,
    progress: Callable[[int], None],
    recording: Path | None = None,
) -> list[BenchWindow]:
    """`count` windows, hop as configured: of `recording` first, then of streets; `progress` is told how many there are.

    Raises SourceError for a recording without RGB frames, or windows too short for any.
    """
    windows = await _cut(recording, make_windower, lead_us, count) if recording else []
    if recording and not windows:
        raise SourceError(f"{recording}: no window holds RGB frames, which the target needs; name another recording")
    progress(len(windows))
    with tempfile.TemporaryDirectory(prefix="event-captioner-bench-") as folder:
        seed = FIRST_SEED
        while len(windows) < count:
            path = Path(folder) / f"{seed}.aedat4"
            record_street(path, seed, SECONDS)
            found = await _cut(path, make_windower, lead_us, count - len(windows))
            if not found:
                raise SourceError(f"windows of this length hold no frames: {path.name} is cut at 10 frames a second")
            windows += found
            path.unlink()
            seed += 1
            progress(len(windows))
    return windows


def record_street(path: Path, seed: int, seconds: float) -> None:
    """Write an AEDAT4 recording of the synthetic street."""
    write_recording(path, synthetic_items(seed, seconds), RESOLUTION, f"bench_{seed}")


async def _cut(path: Path, make_windower: MakeWindower, lead_us: int, count: int) -> list[BenchWindow]:
    source = open_recording(path, speed=None)
    windower = make_windower(source.info, lead_us)
    partial: dict[int, Window] = {}
    found: list[BenchWindow] = []
    try:
        async for item in source:
            for window in windower.push(item):
                if window.partial:
                    partial[window.index] = window
                elif window.frames:
                    found.append(BenchWindow(window, partial.pop(window.index, None)))
                if len(found) == count:
                    return found
        found += [
            BenchWindow(window, partial.get(window.index))
            for window in windower.finish()
            if not window.partial and window.frames
        ]
        return found[:count]
    finally:
        await source.close()
