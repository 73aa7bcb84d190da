"""AEDAT 2.0 and 3.1, written byte by byte from the specifications."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from app.sensors.contract import SourceError
from app.sensors.formats import describe, open_source
from app.sensors.open import open_recording
from tests.app.sensors.samples import events_of, frames_of, read

HEADER_2 = (
    "#!AER-DAT2.0\r\n# This is a raw AE data file - do not edit\r\n"
    "# Data format is int32 address, int32 timestamp (8 bytes total), repeated for each event\r\n"
    "# Timestamps tick is 1 us\r\n# AEChip: eu.seebetter.ini.chips.davis.{chip}\r\n"
)
HEADER_3 = (
    b"#!AER-DAT3.1\r\n#Format: RAW\r\n#Source 1: DAVIS346\r\n#Start-Time: 2017-05-30 12:00:00 (TZ+0200)\r\n"
    b"#!END-HEADER\r\n"
)
Quad = tuple[int, int, int, int]  # t, x, y, p as the application has them: origin at the upper left


def some_events(n: int = 2000, size: tuple[int, int] = (346, 260), span_us: int = 400_000) -> list[Quad]:
    rng = random.Random(2)
    times = sorted(rng.randrange(1_000, 1_000 + span_us) for _ in range(n))
    return [(t, rng.randrange(size[0]), rng.randrange(size[1]), rng.randrange(2)) for t in times]


def dvs(event: Quad, size: tuple[int, int] = (346, 260)) -> bytes:
    t, x, y, p = event
    return struct.pack(">II", (size[1] - 1 - y) << 22 | (size[0] - 1 - x) << 12 | p << 11, t & 0xFFFF_FFFF)


def samples(t: int, value: np.ndarray, reset: bool) -> list[bytes]:
    """One read of all pixels [H, W], column by column from the right, as the chip does it."""
    height, width = value.shape
    head = 0x8000_0000 | (0 if reset else 0x400)
    return [
        struct.pack(">II", head | (height - 1 - y) << 22 | x << 12 | int(value[y, x]), t)
        for x in reversed(range(width))
        for y in range(height)
    ]


def aedat2(path: Path, records: Iterable[bytes], chip: str = "Davis346blue") -> Path:
    path.write_bytes(HEADER_2.format(chip=chip).encode() + b"".join(records))
    return path


def packet(kind: int, events: list[bytes], overflow: int = 0, size: int | None = None) -> bytes:
    number, size = len(events), size or (len(events[0]) if events else 8)
    return struct.pack("<hhiiiiii", kind, 1, size, 4, overflow, number, number, number) + b"".join(events)


def polarity(event: Quad, valid: int = 1) -> bytes:
    t, x, y, p = event
    return struct.pack("<Ii", x << 17 | y << 2 | p << 1 | valid, t)


def frame3(t: int, image: np.ndarray, valid: int = 1) -> bytes:
    """Exposed from 1 ms before `t` to 1 ms after it; the pixels fill 16 bits."""
    height, width, channels = image.shape
    head = struct.pack(
        "<Iiiiiiiii", valid | channels << 1, t - 2_000, t + 2_000, t - 1_000, t + 1_000, width, height, 0, 0
    )
    return head + (image.astype("<u2") << 8).tobytes()


def assert_events(found: list, wanted: list[Quad]) -> None:
    events = events_of(found)
    columns = np.array(wanted).T
    for name, column in zip(("t", "x", "y", "p"), columns, strict=True):
        assert (getattr(events, name) == column).all()


def test_aedat2_events(tmp_path: Path) -> None:
    wanted = some_events()
    special, imu = struct.pack(">II", 0x400, 5_000), struct.pack(">II", 0x8000_0C00 | 7 << 12, 5_000)
    records = [dvs(event) for event in wanted]
    path = aedat2(tmp_path / "a.aedat", [*records[:10], *records[10:]])
    source = open_source(path)
    assert_events(read(source), wanted)
    assert (source.info.name, source.info.resolution, source.ended_early) == ("Davis346blue", (346, 260), None)
    late = sum(t < 5_000 for t, *_ in wanted)
    mixed = open_source(aedat2(tmp_path / "b.aedat", [*records[:late], special, imu, *records[late:]]))
    assert_events(read(mixed), wanted)
    with pytest.raises(SourceError, match=r"--rgb VIDEO.*--frames reconstruct"):
        open_recording(path)
    assert len(frames_of(read(open_recording(path, reconstruct=True, speed=None)))) > 3


def test_aedat2_other_chips_and_closing_line(tmp_path: Path) -> None:
    wanted = some_events(100, (240, 180))
    path = aedat2(tmp_path / "a.aedat", (dvs(event, (240, 180)) for event in wanted), "DAVIS240C")
    source = open_source(path)
    assert source.info.resolution == (240, 180)
    assert_events(read(source), wanted)
    # a first record that begins with the byte of "#" is data once the header has been closed
    first = struct.pack(">II", 0x23 << 24 | 100 << 12, 7)
    head = HEADER_2.format(chip="DAVI346").encode() + b"# End of ASCII Header\r\n"
    (tmp_path / "b.aedat").write_bytes(head + first)
    events = events_of(read(open_source(tmp_path / "b.aedat")))
    assert (len(events), int(events.x[0]), int(events.y[0])) == (1, 245, 260 - 1 - (0x23 << 24 >> 22))


@pytest.mark.parametrize("interleaved", [False, True])
def test_aedat2_frames(tmp_path: Path, interleaved: bool) -> None:
    """Global shutter (all resets, then all signals) and rolling shutter (column by column)."""
    records: list[bytes] = []
    pictures = []
    for i in range(3):
        picture = np.add.outer(np.arange(128) + 10 * i, np.zeros(128, int))
        picture[5, 100] = 240
        reset = np.full((128, 128), 1000)
        resets, signals = samples(10_000 * (i + 1), reset, True), samples(10_000 * (i + 1), reset - 4 * picture, False)
        if interleaved:
            for column in range(0, len(resets), 128):
                records += resets[column : column + 128] + signals[column : column + 128]
        else:
            records += resets + signals
        pictures.append(picture)
    wanted = [(40_000, 1, 2, 1)]
    path = aedat2(tmp_path / "a.aedat", [*records, dvs(wanted[0], (128, 128))], "DAVIS128")
    source = open_recording(path, speed=None)
    found = read(source)
    assert_events(found, wanted)
    frames = frames_of(found)
    assert [f.t_us for f in frames] == [10_000, 20_000, 30_000]
    assert all(f.grey for f in frames)
    assert all((f.image[:, :, 0] == picture).all() for f, picture in zip(frames, pictures, strict=True))
    info, notes = describe(path)
    assert (info.frames, info.frame_size, info.grey, info.camera, notes) == (3, (128, 128), True, "DAVIS128", ())


def test_aedat2_a_frame_that_lost_samples_is_left_out(tmp_path: Path) -> None:
    signal = [samples(10_000 * (i + 1), np.full((128, 128), 500), False) for i in range(3)]
    path = aedat2(tmp_path / "a.aedat", [*signal[0], *signal[1][5000:], *signal[2][100:]], "DAVIS128")
    assert [f.t_us for f in frames_of(read(open_source(path)))] == [10_000, 30_000]


def test_aedat2_the_time_counter_wraps(tmp_path: Path) -> None:
    wanted = [((1 << 31) - 20 + 10 * i, i, 2, 1) for i in range(5)]
    source = open_source(aedat2(tmp_path / "a.aedat", map(dvs, wanted)))
    assert_events(read(source), wanted)
    wanted = [((1 << 32) - 20 + 10 * i, i, 2, 1) for i in range(5)]
    found = events_of(read(open_source(aedat2(tmp_path / "b.aedat", map(dvs, wanted)))))
    assert np.diff(found.t).tolist() == [10, 10, 10, 10]


def test_aedat2_the_time_counter_is_reset(tmp_path: Path) -> None:
    times = [9_000_000, 9_000_010, 0, 10, 20]
    source = open_source(aedat2(tmp_path / "a.aedat", (dvs((t, 3, 2, 1)) for t in times)))
    assert np.diff(events_of(read(source)).t).tolist() == [10, 0, 10, 10]
    assert "set back 1 times" in source.notes[0]


def test_aedat2_seeking_and_tears(tmp_path: Path) -> None:
    wanted = some_events()
    path = aedat2(tmp_path / "a.aedat", map(dvs, wanted))
    origin = wanted[0][0]
    source = open_source(path, start_s=0.1, duration_s=0.1)
    assert_events(read(source), [e for e in wanted if origin + 100_000 <= e[0] < origin + 200_000])
    data = path.read_bytes()
    head = len(HEADER_2.format(chip="Davis346blue"))
    path.write_bytes(data[: head + 8 * 700 + 5])
    source = open_source(path)
    assert_events(read(source), wanted[:700])
    assert "truncated" in (source.ended_early or "")
    assert "700 events before it were read" in (source.ended_early or "")
    short = open_source(path, duration_s=0.01)
    read(short)
    assert short.ended_early is None


def test_aedat3_events_and_frames(tmp_path: Path) -> None:
    wanted = some_events()
    grey = np.arange(260 * 346).reshape(260, 346, 1) % 251
    colour = np.stack([np.full((260, 346), value) for value in (200, 100, 50)], axis=2)
    packets = [
        packet(0, [struct.pack("<Ii", 3, 0)]),  # special
        packet(1, [polarity(e) for e in wanted[:1000]] + [polarity((wanted[999][0], 1, 1, 1), valid=0)]),
        packet(3, [bytes(36)] * 2),  # IMU
        packet(2, [frame3(100_000, grey), frame3(150_000, grey, valid=0)]),
        packet(1, [polarity(e) for e in wanted[1000:]]),
        packet(2, [frame3(300_000, colour)]),
    ]
    path = tmp_path / "a.aedat"
    path.write_bytes(HEADER_3 + b"".join(packets))
    source = open_recording(path, speed=None)
    found = read(source)
    assert_events(found, wanted)
    first, second = frames_of(found)
    assert (first.t_us, first.grey, second.t_us, second.grey) == (100_000, True, 300_000, False)
    assert (first.image[:, :, 1] == grey[:, :, 0]).all()
    assert (second.image == colour).all()
    assert (source.info.name, source.info.resolution, source.notes) == ("DAVIS346", (346, 260), ())
    info, _ = describe(path)
    assert (info.events, info.frames, info.streams) == (2000, 2, ("events", "frames"))
    assert [f.t_us for f in frames_of(read(open_source(path, start_s=0.2)))] == [300_000]


def test_aedat3_overflow_and_unknown_sensor(tmp_path: Path) -> None:
    head = HEADER_3.replace(b"DAVIS346", b"eDVS")
    first = [((1 << 31) - 10 + i, 20, 30, 1) for i in range(10)]
    later = [(i, 21, 40, 0) for i in range(10)]
    path = tmp_path / "a.aedat"
    path.write_bytes(head + packet(1, list(map(polarity, first))) + packet(1, list(map(polarity, later)), overflow=1))
    source = open_source(path)
    assert np.diff(events_of(read(source)).t).tolist() == [1] * 19
    assert source.info.resolution == (22, 41)
    assert "no known sensor" in source.notes[0]


def test_aedat3_tears(tmp_path: Path) -> None:
    wanted = some_events()
    path = tmp_path / "a.aedat"
    whole = HEADER_3 + packet(1, list(map(polarity, wanted[:1000]))) + packet(1, list(map(polarity, wanted[1000:])))
    for cut, count in ((len(whole) - 8 * 300 - 3, 1699), (len(HEADER_3) + 28 + 8000 + 11, 1000)):
        path.write_bytes(whole[:cut])
        source = open_source(path)
        assert_events(read(source), wanted[:count])
        assert f"truncated (it ends within a packet) at 0.{wanted[count - 1][0] // 100_000}" in (
            source.ended_early or ""
        )
        assert f"{count:,} events before it were read" in (source.ended_early or "")
    path.write_bytes(HEADER_3 + packet(1, list(map(polarity, wanted[:1000]))) + b"\xff" * 200)
    source = open_source(path)
    assert_events(read(source), wanted[:1000])
    assert "no packet" in (source.ended_early or "")
    short = open_source(path, duration_s=0.001)
    read(short)
    assert short.ended_early is None
    lying = struct.pack("<hhiiiiii", 1, 1, 8, 4, 0, 1 << 30, (1 << 31) - 1, 1 << 30)
    path.write_bytes(HEADER_3 + lying + polarity(wanted[0]))
    assert_events(read(open_source(path)), wanted[:1])


@pytest.mark.parametrize("damaged", ["last", "middle"])
def test_one_damaged_time_costs_no_more_than_its_event(tmp_path: Path, damaged: str) -> None:
    wanted = some_events()
    late, far = (1_500, 3, 2, 1), ((1 << 31) - 1, 3, 2, 1)
    place, bad = (len(wanted), late) if damaged == "last" else (1000, far)
    packets = [packet(1, list(map(polarity, events))) for events in (wanted[:place], [bad], wanted[place:]) if events]
    path = tmp_path / "a.aedat"
    path.write_bytes(HEADER_3 + b"".join(packets))
    info, _ = describe(path)
    assert (info.events, info.dropped_events, info.damage) == (2000, 1, None)
    assert_events(read(open_source(path)), wanted)


def test_aedat2_a_last_event_that_comes_late(tmp_path: Path) -> None:
    wanted = some_events(span_us=2_000_000)
    late = (wanted[-1][0] - 900_000, 3, 2, 1)
    source = open_source(aedat2(tmp_path / "a.aedat", map(dvs, [*wanted, late])))
    assert_events(read(source), wanted)
    assert source.dropped_events == 1


def test_aedat3_a_frame_that_lies(tmp_path: Path) -> None:
    lying = struct.pack("<Iiiiiiiii", 3, 10, 10, 10, 10, 5000, 5000, 0, 0)
    path = tmp_path / "a.aedat"
    path.write_bytes(HEADER_3 + packet(1, [polarity((5, 1, 1, 1))]) + packet(2, [lying]))
    source = open_source(path)
    assert len(events_of(read(source))) == 1
    assert "larger than its event" in (source.ended_early or "")


def test_bad_files_are_one_line(tmp_path: Path) -> None:
    event = dvs((1, 1, 1, 1))
    bad = {
        "foreign": (b"RIFF" * 1000, "not a recording"),
        "empty": (b"", "empty"),
        "dvs128": (HEADER_2.format(chip="DVS128").encode() + event, "DAVIS recordings are read"),
        "no chip": (b"#!AER-DAT2.0\r\n" + event, "names no chip"),
        "version 1": (b"# a comment\r\n" + event, "AEDAT 1.0 is not supported"),
        "version 3.0": (b"#!AER-DAT3.0\r\n" + event, "AEDAT 3.0 is not supported"),
        "compressed": (HEADER_3.replace(b"RAW", b"Serial-TS"), "compressed"),
        "only a header 2": (HEADER_2.format(chip="DAVIS240C").encode(), "nothing to caption"),
        "only a header 3": (HEADER_3, "nothing to caption"),
        "text": (b"#" * 100_000, "not supported"),
        "endless": (b"# x\n" * 30_000, "header is longer"),
        "long": (b"#" + b"x" * 60_000 + b"\n", "AEDAT 1.0"),
    }
    for name, (data, why) in bad.items():
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(SourceError, match=why) as error:
            open_source(path)
        assert str(error.value).startswith(str(path))
        assert "\n" not in str(error.value)
    with pytest.raises(SourceError, match="past its end"):
        open_source(aedat2(tmp_path / "a.aedat", [event, dvs((50, 1, 1, 1))]), start_s=9)


@pytest.mark.parametrize("version", [2, 3])
def test_fuzz(tmp_path: Path, version: int) -> None:
    events, rng, told = some_events(300), random.Random(8), []
    path = aedat2(tmp_path / "a.aedat", map(dvs, events))
    if version == 3:
        image = np.zeros((4, 4, 1))
        path.write_bytes(HEADER_3 + packet(1, list(map(polarity, events))) + packet(2, [frame3(9_000, image)] * 3))
    data = path.read_bytes()
    for _ in range(150):
        flipped = bytearray(data)
        for _ in range(rng.choice([1, 4, 40])):
            flipped[rng.randrange(rng.choice([300, len(data)]))] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped[: rng.randrange(len(data))] if rng.random() < 0.3 else flipped)
        try:
            source = open_source(path)
            for item in read(source):
                if hasattr(item, "x"):
                    assert (item.x < source.info.resolution[0]).all()
            told.append(source.ended_early or "")
        except SourceError as error:
            told.append(str(error))
    assert any(told)
    assert not any("\n" in line for line in told)
