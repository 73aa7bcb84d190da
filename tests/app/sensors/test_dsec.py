"""DSEC-style HDF5: the layout of https://dsec.ifi.uzh.ch/data-format/, written here in small."""

from __future__ import annotations

import random
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from app.sensors.contract import Frame, SourceError
from app.sensors.formats import describe, open_source
from app.sensors.open import open_recording
from tests.app.sensors.samples import events_of, frames_of, read

h5py = pytest.importorskip("h5py")
hdf5plugin = pytest.importorskip("hdf5plugin")

OFFSET_US = 49_599_300_523
N = 10_000


def columns() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(4)
    return {
        "x": rng.integers(0, 640, N).astype(np.uint16),
        "y": rng.integers(0, 480, N).astype(np.uint16),
        "t": np.sort(rng.integers(0, 500_000, N)).astype(np.uint32),
        "p": rng.integers(0, 2, N).astype(np.uint8),
    }


def sequence(root: Path, images: int = 0, index: bool = True, **compression: Any) -> Path:
    """`root/events/left/events.h5` and, where asked for, the images of the left camera every 50 ms."""
    path = root / "events" / "left" / "events.h5"
    path.parent.mkdir(parents=True)
    compression = compression or dict(hdf5plugin.Blosc(cname="zstd"))
    wanted = columns()
    with h5py.File(path, "w") as file:
        for name, column in wanted.items():
            file.create_dataset(f"events/{name}", data=column, chunks=(1000,), **compression)
        file["t_offset"] = np.int64(OFFSET_US)
        if index:
            file["ms_to_idx"] = np.searchsorted(wanted["t"], np.arange(0, 501) * 1000).astype(np.uint64)
    if images:
        folder = root / "images" / "left" / "rectified"
        folder.mkdir(parents=True)
        for i in range(images):
            image = np.zeros((12, 16, 3), np.uint8)
            image[:, :, 2] = 10 * i  # red, in OpenCV's order
            cv2.imwrite(str(folder / f"{i:06d}.png"), image)
        times = [OFFSET_US + 10_000 + 50_000 * i for i in range(images)]
        (root / "images" / "timestamps.txt").write_text("".join(f"{t}\n" for t in times))
    return path


@pytest.mark.parametrize("filters", ["blosc", "zstd", "plain"])
def test_events_and_images(tmp_path: Path, filters: str) -> None:
    compression = {"blosc": {}, "zstd": dict(hdf5plugin.Zstd()), "plain": {"shuffle": True}}[filters]
    source = open_recording(sequence(tmp_path, images=8, **compression), speed=None)
    found, wanted = read(source), columns()
    events = events_of(found)
    assert (events.t == wanted["t"].astype(np.int64) + OFFSET_US).all()
    assert all((getattr(events, name) == wanted[name]).all() for name in ("x", "y", "p"))
    frames = frames_of(found)
    assert [f.t_us - OFFSET_US for f in frames] == [10_000 + 50_000 * i for i in range(8)]
    assert [int(f.image[0, 0, 0]) for f in frames] == [10 * i for i in range(8)]
    assert source.info.resolution == (640, 480)
    assert source.ended_early is None
    assert source.notes == ()


@pytest.mark.parametrize("index", [True, False])
def test_seeking(tmp_path: Path, index: bool) -> None:
    wanted = columns()["t"].astype(np.int64)
    source = open_source(sequence(tmp_path, images=8, index=index), start_s=0.2, duration_s=0.1)
    found = read(source)
    origin = int(wanted[0])
    inside = (wanted >= origin + 200_000) & (wanted < origin + 300_000)
    assert (events_of(found).t - OFFSET_US == wanted[inside]).all()
    assert [(f.t_us - OFFSET_US) // 1000 for f in frames_of(found)] == [210, 260]


def test_rectification(tmp_path: Path) -> None:
    path = sequence(tmp_path)
    y, x = np.mgrid[0:480, 0:640].astype(np.float32)
    with h5py.File(path.with_name("rectify_map.h5"), "w") as file:
        file["rectify_map"] = np.stack([x + 100.4, y - 0.4], axis=2)
    source = open_source(path)
    found, wanted = events_of(read(source)), columns()
    inside = wanted["x"] < 540
    assert (found.x == wanted["x"][inside] + 100).all()
    assert (found.y == wanted["y"][inside]).all()
    assert source.dropped_events == N - int(inside.sum())
    assert "rectified with rectify_map.h5" in source.notes[0]
    with h5py.File(path.with_name("rectify_map.h5"), "w") as file:
        file["rectify_map"] = np.zeros((3, 3))
    source = open_source(path)
    assert len(events_of(read(source))) == N
    assert "not rectified" in source.notes[0]


def test_describe_and_no_images(tmp_path: Path) -> None:
    path = sequence(tmp_path)
    info, notes = describe(path)
    assert (info.events, info.frames, info.damage, notes) == (N, 0, None, ())
    with pytest.raises(SourceError, match=r"--rgb VIDEO.*--frames reconstruct"):
        open_recording(path)
    assert len(frames_of(read(open_recording(path, reconstruct=True, speed=None)))) > 5


def test_images_that_do_not_fit_are_noted(tmp_path: Path) -> None:
    path = sequence(tmp_path / "few", images=4)
    times = tmp_path / "few" / "images" / "timestamps.txt"
    times.write_text(
        "# exposure\n" + "".join(f"{OFFSET_US + 90_000 + 10 * i}, {OFFSET_US + 110_000}\n" for i in range(3))
    )
    source = open_source(path)
    assert [f.t_us - OFFSET_US for f in frames_of(read(source))] == [100_000, 100_005, 100_010]
    assert "4 images but 3 timestamps" in source.notes[0]
    times.write_text("nonsense\n")
    assert len(open_source(path).notes) == 2
    times.write_text("1\n2\n3\n4\n")
    assert "none of its images" in open_source(path).notes[0]
    times.unlink()
    assert "no timestamps.txt" in open_source(path).notes[0]
    assert not open_source(path).info.has_frames


def test_a_bad_image_is_told_and_the_events_are_read(tmp_path: Path) -> None:
    path = sequence(tmp_path, images=8)
    (tmp_path / "images" / "left" / "rectified" / "000003.png").write_bytes(b"not an image")
    source = open_source(path)
    found = read(source)
    assert len(events_of(found)) == N
    assert sum(isinstance(item, Frame) for item in found) == 3
    assert "000003.png cannot be read" in (source.ended_early or "")


def test_an_image_that_claims_more_pixels_than_opencv_takes_is_told(tmp_path: Path) -> None:
    path = sequence(tmp_path, images=8)
    image = tmp_path / "images" / "left" / "rectified" / "000003.png"
    data = image.read_bytes()
    head = b"IHDR" + struct.pack(">II", 60_000, 60_000) + data[24:29]  # after the signature and a length
    image.write_bytes(data[:12] + head + struct.pack(">I", zlib.crc32(head)) + data[33:])
    info, _ = describe(path)
    assert (info.events, info.frames, info.damage) == (N, 3, "damaged: image 000003.png cannot be read")


def test_the_images_are_found_from_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = sequence(tmp_path, images=8)
    monkeypatch.chdir(path.parent)
    info, notes = describe(path.name)
    assert (info.frames, notes) == (8, ())


@pytest.mark.parametrize("damaged", [-1, -3, 5000])
def test_one_damaged_time_costs_no_more_than_its_event(tmp_path: Path, damaged: int) -> None:
    path = sequence(tmp_path)
    times = columns()["t"]
    times[damaged] = 0 if damaged < 0 else 1 << 31
    with h5py.File(path, "r+") as file:
        file["events/t"][:] = times
    info, _ = describe(path)
    assert (info.events, info.dropped_events, info.damage) == (N - 1, 1, None)


def test_bad_files_are_one_line(tmp_path: Path) -> None:
    whole = sequence(tmp_path / "whole")
    data = whole.read_bytes()
    (tmp_path / "torn.h5").write_bytes(data[: len(data) * 2 // 3])
    (tmp_path / "head.h5").write_bytes(data[:12])
    makers: dict[str, Any] = {
        "none": lambda f: f.create_group("events"),
        "two": lambda f: f.create_dataset("events/x", data=np.zeros((2, 2))),
        "text": lambda f: f.create_dataset("events/x", data="abc"),
        "outside": lambda f: f.__setitem__("events", h5py.ExternalLink(str(whole), "/events")),
        "virtual": lambda f: virtual(f, whole),
        "chunks": lambda f: f.create_dataset("events/x", (1 << 28,), np.uint16, chunks=(1 << 27,)),
        "claims": lambda f: [f.create_dataset(f"events/{c}", (1 << 40,), np.uint16, chunks=(1000,)) for c in "xytp"],
    }
    for name, make in makers.items():
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            make(file)
    for name in ("torn", "head", *makers):
        with pytest.raises(SourceError, match=f"{name}.h5: not a readable") as error:
            open_source(tmp_path / f"{name}.h5")
        assert "\n" not in str(error.value)


def virtual(file: Any, whole: Path) -> None:
    layout = h5py.VirtualLayout((N,), np.uint16)
    layout[:] = h5py.VirtualSource(str(whole), "events/x", (N,))
    file.create_virtual_dataset("events/x", layout)


def test_columns_of_different_length(tmp_path: Path) -> None:
    path = sequence(tmp_path, index=False)
    with h5py.File(path, "a") as file:
        del file["events/p"]
        file["events/p"] = columns()["p"][:6000]
    source = open_source(path)
    assert len(events_of(read(source))) == 6000
    assert "6,000 events before it were read" in (source.ended_early or "")


def test_a_damaged_chunk_ends_the_events_there(tmp_path: Path) -> None:
    path = sequence(tmp_path, fletcher32=True)
    with h5py.File(path, "r") as file:
        chunk = file["events/t"].id.get_chunk_info(5)
    data = bytearray(path.read_bytes())
    for at in range(chunk.byte_offset, chunk.byte_offset + 8):
        data[at] ^= 0xFF
    path.write_bytes(data)
    source = open_source(path)
    events = events_of(read(source))
    assert 4_700 <= len(events) <= 5_000
    assert (events.x == columns()["x"][: len(events)]).all()
    assert f"{len(events):,} events before it were read" in (source.ended_early or "")


def test_fuzz(tmp_path: Path) -> None:
    data, rng, told = sequence(tmp_path / "s").read_bytes(), random.Random(6), []
    for _ in range(60):
        flipped = bytearray(data)
        for _ in range(rng.choice([1, 4, 40])):
            flipped[rng.randrange(rng.choice([4000, len(data)]))] ^= 1 << rng.randrange(8)
        (tmp_path / "f.h5").write_bytes(flipped)
        try:
            source = open_source(tmp_path / "f.h5")
            read(source)
            told.append(source.ended_early or "")
        except SourceError as error:
            told.append(str(error))
    assert any(told)
    assert not any("\n" in line for line in told)
