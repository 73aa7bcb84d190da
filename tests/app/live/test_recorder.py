"""The recorder and its real child: what a camera may do while it is recorded; see also `test_commands`."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from app.live.recorder import Recorder
from app.publishing.commands import CommandError
from app.sensors.contract import Events, Frame, Item, SourceInfo
from app.sensors.recording import RecordingInfo, describe
from app.service_config import RecordingConfig
from app.supervision.health import Health
from tests.app.live.feed import until

INFO = SourceInfo("feed", (60, 40), True, True, True)


def events(at_ms: int) -> Events:
    """A hundred within 1 ms."""
    t = np.arange(100, dtype=np.int64) * 10 + at_ms * 1000
    return Events(t, np.zeros(100, np.int16), np.zeros(100, np.int16), np.ones(100, np.uint8))


def frame(at_ms: int, width: int = 60, height: int = 40) -> Frame:
    return Frame(at_ms * 1000, np.zeros((height, width, 3), np.uint8))


def recorded(folder: Path, *files: list[Item]) -> tuple[list[RecordingInfo], int]:
    """What is written of a camera's items, and how many were left out.

    Each list is meant to begin a file; its first item is lost while that is opened, as it would be of a camera.
    """

    async def record() -> Recorder:
        recorder = Recorder(folder, RecordingConfig(min_free_gb=0.0), Health())
        recorder.start()
        for items in files:
            recorder.item("front", INFO, items[0])
            await until(lambda: recorder._tracks)
            for item in items[1:]:
                recorder.item("front", INFO, item)
        await recorder.stop()
        return recorder

    recorder = asyncio.run(record())
    names = [name for name in recorder.state()["files"] if name.endswith(".aedat4")]
    assert len(names) == len(files)
    assert all((folder / name).with_suffix(".jsonl").is_file() for name in names)
    return [describe(folder / name) for name in names], recorder.left_out


def test_a_sensor_clock_that_is_set_back_begins_another_file(tmp_path: Path) -> None:
    before = [frame(10_000), *(events(10_000 + at) for at in range(10)), frame(10_011)]
    after = [events(1_000), *(events(1_000 + at) for at in range(20)), frame(1_021)]
    (first, second), left_out = recorded(tmp_path, before, after)
    assert (first.events, first.frames, first.damage) == (1000, 1, None)
    assert (second.events, second.frames, second.damage) == (2000, 1, None)
    assert (second.start_us, left_out) == (1_000_000, 0)


def test_what_comes_out_of_order_is_left_out_and_counted(tmp_path: Path) -> None:
    items: list[Item] = [events(10_000), events(10_000), events(9_500), frame(10_002), frame(9_900), events(10_003)]
    (found,), left_out = recorded(tmp_path, items)
    assert (found.events, found.frames, found.damage, left_out) == (200, 1, None, 101)


def test_a_camera_of_larger_frames_that_comes_late_is_recorded(tmp_path: Path) -> None:
    waiting = [events(at) for at in range(0, 4_000, 100)]
    (found,), left_out = recorded(tmp_path, [*waiting, frame(4_000, 640, 480), events(4_001)])
    assert (found.events, found.frames, found.frame_size) == (100 * len(waiting), 1, (640, 480))
    assert (found.resolution, found.damage, left_out) == ((60, 40), None, 0)


def test_frames_that_become_larger_begin_another_file(tmp_path: Path) -> None:
    before = [frame(0), frame(10), events(11), frame(20, 30, 20)]
    after = [frame(1_000, 640, 480), frame(1_010, 640, 480), events(1_011)]
    (first, second), left_out = recorded(tmp_path, before, after)
    assert (first.events, first.frames, first.damage) == (100, 2, None)
    assert (second.events, second.frames, second.frame_size, second.damage) == (100, 1, (640, 480), None)
    assert left_out == 0


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "rides"
    with pytest.raises(CommandError) as refused:
        Recorder(folder, RecordingConfig(), Health()).start()
    remedy = "name another in recording.folder or with --folder"
    assert str(refused.value) == f"recording folder {folder}: cannot be made: Not a directory; {remedy}"
