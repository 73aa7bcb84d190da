"""Pacing, looping, video and reconstruction around small sources."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from app.sensors.contract import Events, Frame, SourceError
from app.sensors.looping import Looped
from app.sensors.open import open_recording
from app.sensors.pacing import Paced
from app.sensors.reconstruct import Reconstructed
from app.sensors.synthetic import Synthetic
from app.sensors.video import WithVideo
from app.sensors.writer import write_recording
from tests.app.sensors.samples import SIZE, START_US, Listed, events_of, first_us, frames_of, items, read, recording

PROJECT = Path(__file__).resolve().parents[3]


def listed(seconds: float, frames: bool = True) -> Listed:
    return Listed(list(items(seconds, frames=frames)), START_US + round(seconds * 1e6))


def test_pacing_keeps_real_time_and_makes_up_for_delays() -> None:
    async def run() -> list[tuple[int, int]]:
        seen = []
        source = Paced(listed(0.6), speed=2.0)
        async for item in source:
            if isinstance(item, Frame):
                seen.append((item.t_us, item.arrived_ns))
                assert source.now_us() is not None
                if len(seen) == 3:
                    time.sleep(0.06)  # a consumer that falls behind
        return seen

    seen = asyncio.run(run())
    t0, arrived0 = seen[0]
    late_ms = [(arrived - arrived0) / 1e6 - (t - t0) / 2e3 for t, arrived in seen]
    assert min(late_ms) >= 0
    assert late_ms[-1] < 30


def test_max_speed_does_not_wait() -> None:
    started = time.monotonic()
    read(Paced(listed(5.0), speed=None))
    assert time.monotonic() - started < 2
    with pytest.raises(SourceError, match="speed"):
        Paced(listed(0.1), speed=0)


def test_looping_never_runs_backwards() -> None:
    opened: list[Listed] = []

    def again() -> Listed:
        opened.append(listed(0.2))
        return opened[-1]

    source = Looped(again, 3)
    found = read(source)
    assert len(events_of(found)) == 3 * 2000
    starts = [f.t_us - START_US for f in frames_of(found)]
    assert starts == [k * 200_000 + i * 50_000 for k in range(3) for i in range(4)]
    assert source.info.end_us == START_US + 600_000
    assert all(one.closed for one in opened)


def test_a_loop_that_is_cancelled_closes_what_it_was_opening() -> None:
    opened: list[Listed] = []

    def again() -> Listed:
        if opened:
            time.sleep(0.1)
        opened.append(listed(0.05))
        return opened[-1]

    async def run() -> None:
        source = Looped(again)

        async def read_on() -> None:
            async for _ in source:
                pass

        task = asyncio.create_task(read_on())
        await asyncio.sleep(0.05)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await source.close()

    asyncio.run(run())
    assert [one.closed for one in opened] == [True, True]


def video(path: Path, frames: int = 10, fps: float = 20.0) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), fps, (64, 48))
    for i in range(frames):
        image = np.zeros((48, 64, 3), np.uint8)
        image[:, :, 2] = 20 * i % 256  # red, in OpenCV's order
        writer.write(image)
    writer.release()
    return path


def test_video_frames_are_merged_in_time(tmp_path: Path) -> None:
    source = WithVideo(listed(0.4, frames=False), video(tmp_path / "v.avi"), 120.0, START_US)
    found = read(source)
    frames = frames_of(found)
    assert [f.t_us - START_US for f in frames] == [120_000 + 50_000 * i for i in range(6)]
    assert all(abs(int(f.image[20, 20, 0]) - 20 * i) < 8 for i, f in enumerate(frames))
    assert frames[5].image[:, :, 2].max() < 20
    assert len(events_of(found)) == 4000
    assert source.info.has_frames


def test_video_that_starts_before_the_recording_or_misses_it(tmp_path: Path) -> None:
    path = video(tmp_path / "v.avi")
    frames = frames_of(read(WithVideo(listed(0.4, frames=False), path, -100.0, START_US)))
    assert [f.t_us - START_US for f in frames] == [50_000 * i for i in range(8)]
    missed = WithVideo(listed(0.4, frames=False), path, 9e6, START_US)
    assert frames_of(read(missed)) == []
    assert "--rgb-offset-ms" in missed.notes[0]


CLOSED_WHILE_READ = """
import asyncio, sys
from app.sensors.video import WithVideo
from tests.app.sensors.samples import START_US, Listed

async def close_while_it_is_read() -> None:
    source = WithVideo(Listed([], START_US + 1), sys.argv[1], 0.0, 0)  # all of the video lies before the recording
    reading = asyncio.create_task(anext(aiter(source)))
    await asyncio.sleep(0.002)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    await source.close()

for _ in range(150):
    asyncio.run(close_while_it_is_read())
"""


def test_a_video_may_be_closed_while_a_thread_reads_it(tmp_path: Path) -> None:
    path = video(tmp_path / "v.avi", 200)
    command = [sys.executable, "-c", CLOSED_WHILE_READ, str(path)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_bad_videos_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "no.mp4").write_bytes(b"not a video")
    for name in ("no.mp4", "missing.mp4"):
        with pytest.raises(SourceError, match="video"):
            WithVideo(listed(0.1), tmp_path / name, 0.0, START_US)


def test_reconstruction_shows_where_events_were() -> None:
    t = np.arange(0, 400_000, 100, dtype=np.int64) + START_US
    x = np.where(np.arange(len(t)) % 2 == 0, 5, 20).astype(np.int16)
    run = Events(t, x, np.full(len(t), 10, np.int16), (x == 5).astype(np.uint8))
    found = read(Reconstructed(Listed([run], START_US + 400_000), fps=10))
    frames = frames_of(found)
    assert [f.t_us - START_US for f in frames] == [100_000, 200_000, 300_000]
    assert len(events_of(found)) == len(t)
    image = frames[-1].image
    assert image.shape == (SIZE[1], SIZE[0], 3)
    assert frames[-1].grey
    assert image[10, 5].min() > 200
    assert image[10, 20].max() < 50
    assert image[0, 0, 0] == 127


def test_reconstruction_does_not_fill_a_long_gap() -> None:
    def at(second: int) -> Events:
        t = np.arange(10, dtype=np.int64) + START_US + second * 1_000_000
        return Events(t, np.ones(10, np.int16), np.ones(10, np.int16), np.ones(10, np.uint8))

    frames = frames_of(read(Reconstructed(Listed([at(0), at(1), at(10_000)], START_US), fps=10)))
    assert 10 <= len(frames) <= 31


def test_everything_together(tmp_path: Path) -> None:
    path = recording(tmp_path / "events.aedat4", 0.4, frames=False)
    source = open_recording(
        path, start_s=0.1, duration_s=0.2, speed=None, loop=2, rgb=video(tmp_path / "v.avi"), rgb_offset_ms=0.0
    )
    found = read(source)
    assert len(frames_of(found)) == 8
    origin = first_us(found[0])
    assert int(events_of(found).t[-1]) - origin < 400_000
    with pytest.raises(SourceError, match="not both"):
        open_recording(path, rgb="v.avi", reconstruct=True)


def test_synthetic_is_seeded_and_can_be_recorded(tmp_path: Path) -> None:
    one, two = read(Synthetic(5, 0.2)), read(Synthetic(5, 0.2))
    assert (events_of(one).t == events_of(two).t).all()
    assert len(frames_of(one)) == 2
    path = tmp_path / "s.aedat4"
    events, frames = write_recording(path, one, Synthetic(5, 0.2).info.resolution, "DEMO_5")
    again = read(open_recording(path, speed=None))
    assert (events_of(again).x == events_of(one).x).all()
    assert (events, frames) == (len(events_of(one)), 2)
    assert (frames_of(again)[1].image == frames_of(one)[1].image).all()


def test_nothing_half_written_stays(tmp_path: Path) -> None:
    backwards = list(items(0.2, frames=False))[::-1]
    with pytest.raises(SourceError, match="cannot be written"):
        write_recording(tmp_path / "b.aedat4", backwards, SIZE, "BACK")
    with pytest.raises(SourceError, match="cannot write there"):
        write_recording(tmp_path / "no" / "b.aedat4", [], SIZE, "BACK")

    def broken() -> list[Frame]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_recording(tmp_path / "b.aedat4", (broken() for _ in range(1)), SIZE, "BACK")  # type: ignore[misc]
    assert list(tmp_path.iterdir()) == []
