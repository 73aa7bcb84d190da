"""Recordings: what was written comes back; what is damaged ends with one line and never with the process."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from app.sensors.aedat4 import table_position
from app.sensors.contract import Events, Frame, SourceError
from app.sensors.open import open_recording
from app.sensors.recorder import record
from app.sensors.recording import Recording, describe
from app.sensors.writer import write_recording
from app.windower import Windower
from tests.app.sensors.samples import SIZE, START_US, events_of, frames_of, items, read, recording

REAL = Path(__file__).resolve().parents[4] / "shared" / "data" / "davis346.aedat4"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recording(tmp_path_factory.mktemp("recordings") / "whole.aedat4")


def test_what_was_written_comes_back(whole: Path) -> None:
    source = Recording(whole)
    assert source.info.resolution == SIZE
    assert (source.info.has_events, source.info.has_frames, source.info.live) == (True, True, False)
    found, written = read(source), list(items(1.0))
    for column in ("t", "x", "y", "p"):
        a, b = getattr(events_of(found), column), getattr(events_of(written), column)
        assert a.dtype == b.dtype
        assert (a == b).all()
    assert [f.t_us for f in frames_of(found)] == [f.t_us for f in frames_of(written)]
    assert all((a.image == b.image).all() for a, b in zip(frames_of(found), frames_of(written), strict=True))
    assert all(item.t[-1] - item.t[0] < 20_000 for item in found if isinstance(item, Events))
    assert all(f.arrived_ns > 0 and not f.grey for f in frames_of(found))
    assert source.ended_early is None


def test_seeking(whole: Path) -> None:
    source = Recording(whole, start_s=0.3, duration_s=0.2)
    found = read(source)
    everything = events_of(list(items(1.0)))
    inside = (everything.t >= START_US + 300_000) & (everything.t < START_US + 500_000)
    assert (events_of(found).t == everything.t[inside]).all()
    assert [f.t_us - START_US for f in frames_of(found)] == [300_000, 350_000, 400_000, 450_000]
    assert (source.info.start_us, source.info.end_us) == (START_US + 300_000, START_US + 500_000)
    assert source.ended_early is None


def test_seeking_over_an_empty_stretch(tmp_path: Path) -> None:
    def run(at_s: float) -> Events:
        t = np.arange(3, dtype=np.int64) + START_US + round(at_s * 1e6)
        return Events(t, np.zeros(3, np.int16), np.zeros(3, np.int16), np.ones(3, np.uint8))

    path = tmp_path / "gap.aedat4"
    write_recording(path, [run(0), run(1), run(7200), run(7201)], SIZE, "GAP")
    found = read(Recording(path, start_s=0.5))
    assert [(int(i.t[0]) - START_US) // 1_000_000 for i in found if isinstance(i, Events)] == [1, 7200, 7201]


def test_grey_frames_become_three_channels(tmp_path: Path) -> None:
    found = read(Recording(recording(tmp_path / "grey.aedat4", 0.2, grey=True)))
    frame = frames_of(found)[1]
    assert frame.grey
    assert frame.image.shape == (SIZE[1], SIZE[0], 3)
    assert (frame.image == 1).all()


def test_a_recorded_frame_comes_back_where_it_stood(tmp_path: Path) -> None:
    image = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    frames = [Frame(START_US + t, image, exposure_us=e) for t, e in ((0, 0), (50_000, 8_000), (100_000, 20_000_000))]
    record(str(tmp_path / "live.aedat4"), "LIVE", SIZE, iter(frames))
    write_recording(tmp_path / "made.aedat4", frames, SIZE, "MADE")
    for name in ("live", "made"):
        found = frames_of(read(Recording(tmp_path / f"{name}.aedat4")))
        assert [f.middle_us - START_US for f in found] == [0, 54_000, 100_000], "the last exposure is damaged"


def test_describe(whole: Path) -> None:
    info = describe(whole)
    assert (info.events, info.frames, info.triggers, info.grey) == (10_000, 20, 0, False)
    assert info.camera == "TEST_1"
    assert info.imu > 0
    assert (info.resolution, info.frame_size, info.damage) == (SIZE, SIZE, None)
    assert 9_000 < info.event_rate < 11_000


def test_event_only_names_both_ways_out(tmp_path: Path) -> None:
    path = recording(tmp_path / "events.aedat4", 0.2, frames=False)
    with pytest.raises(SourceError, match=r"--rgb VIDEO --rgb-offset-ms N.*--frames reconstruct") as error:
        open_recording(path)
    assert "\n" not in str(error.value)
    assert len(frames_of(read(open_recording(path, reconstruct=True, speed=None)))) > 0


def test_frames_only_works_and_says_so(tmp_path: Path) -> None:
    source = open_recording(recording(tmp_path / "frames.aedat4", 0.2, events=False), speed=None)
    assert "target captions alone" in source.notes[0]
    assert len(frames_of(read(source))) == 4


def test_bad_files_are_one_line(tmp_path: Path, whole: Path) -> None:
    (tmp_path / "empty.aedat4").write_bytes(b"")
    (tmp_path / "foreign.aedat4").write_bytes(b"RIFF" * 1000)
    (tmp_path / "head.aedat4").write_bytes(whole.read_bytes()[:40])
    write_recording(tmp_path / "nothing.aedat4", [], SIZE, "NOTHING")
    for name in ("empty", "foreign", "head", "nothing", "missing"):
        with pytest.raises(SourceError) as error:
            Recording(tmp_path / f"{name}.aedat4")
        assert str(error.value).startswith(str(tmp_path / name))
        assert "\n" not in str(error.value)
        assert ".cpp" not in str(error.value)
    with pytest.raises(SourceError, match="past its end"):
        Recording(whole, start_s=100)
    with pytest.raises(SourceError, match="start must be"):
        Recording(whole, start_s=-1)


def test_cut_short_is_read_up_to_the_tear(tmp_path: Path, whole: Path) -> None:
    data = whole.read_bytes()
    torn = tmp_path / "torn.aedat4"
    torn.write_bytes(data[: len(data) * 2 // 3])
    source = Recording(torn)
    events = events_of(read(source))
    everything = events_of(list(items(1.0)))
    assert 1000 < len(events) < 10_000
    assert (events.t == everything.t[: len(events)]).all()
    assert source.ended_early is not None
    assert f"{len(events):,} events before it were read" in source.ended_early
    assert torn.stat().st_size == len(data) * 2 // 3, "the recording itself is never touched"


def test_killed_recorder_is_read_up_to_its_last_packet(tmp_path: Path) -> None:
    script = (
        "import os, sys; from app.sensors.writer import write_recording\n"
        "from tests.app.sensors.samples import SIZE, items\n"
        "def until_killed():\n    yield from items(8.0)\n    import time; time.sleep(0.5); os._exit(0)\n"
        "write_recording(sys.argv[1], until_killed(), SIZE, 'KILLED')"
    )
    root = Path(__file__).resolve().parents[3]
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "k.aedat4")], cwd=root, check=True)
    (left,) = tmp_path.glob(".k.*.aedat4")
    source = Recording(left)
    assert len(events_of(read(source))) > 1000
    assert "never closed" in (source.ended_early or "")


def test_damaged_table_is_done_without(tmp_path: Path, whole: Path) -> None:
    found = table_position(whole)
    assert found is not None
    data = bytearray(whole.read_bytes())
    for at in range(found[1], len(data)):
        data[at] ^= 0xFF
    (tmp_path / "t.aedat4").write_bytes(data)
    source = Recording(tmp_path / "t.aedat4")
    assert len(events_of(read(source))) == 10_000
    assert "damaged" in (source.ended_early or "")


def test_closing_before_the_end_ends_the_reader(whole: Path) -> None:
    import asyncio

    async def first_only() -> int:
        source = Recording(whole)
        async for _ in source:
            await source.close()
        return source._child._process.returncode

    assert asyncio.run(first_only()) < 0


@pytest.mark.parametrize("original", ["whole", "real"])
def test_fuzz_never_crashes_nor_hangs(original: str, tmp_path: Path, whole: Path) -> None:
    if original == "real" and not REAL.exists():
        pytest.skip("the real recording is not there: ../shared/data/davis346.aedat4")
    data = (REAL if original == "real" else whole).read_bytes()
    rng, deadline = random.Random(7), time.monotonic() + 6
    path, tried = tmp_path / "f.aedat4", 0
    while tried < 12 and time.monotonic() < deadline:
        flipped = bytearray(data)
        for _ in range(rng.choice([1, 4, 40])):
            region = rng.choice([2000, len(data), len(data)])  # the header deserves more than its share
            flipped[rng.randrange(region)] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped[: rng.randrange(len(data))] if tried % 3 == 0 else flipped)
        started, tried = time.monotonic(), tried + 1
        try:
            source = Recording(path, stall_s=0.7)
            found = read(source)
        except SourceError as error:
            told = str(error)
        else:
            told = source.ended_early or ""
            events = [item for item in found if isinstance(item, Events)]
            width, height = source.info.resolution
            assert all((e.x >= 0).all() and (e.x < width).all() and (e.y < height).all() for e in events)
        assert "\n" not in told
        assert time.monotonic() - started < 6
    assert tried >= 3


def test_real_recording_is_one_window() -> None:
    if not REAL.exists():
        pytest.skip("the real recording is not there: ../shared/data/davis346.aedat4")
    source = open_recording(REAL, speed=None)
    windower = Windower(1_000_000, 1_000_000, resolution=source.info.resolution)
    windows = [window for item in read(source) for window in windower.push(item)] + windower.finish()
    (window,) = windows
    assert len(window.events) == 117_667
    assert window.resolution == (346, 260)
    real = [f.frame for f in window.frames if not f.repeat]
    assert len(real) + len(window.unused_frames) == 3
    assert all(frame.grey for frame in real)
    assert len(window.frames) == 8
    assert "frames repeated: 3 real" in window.notes
