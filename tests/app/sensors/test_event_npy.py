"""EventGPT's pickled dictionaries: read as NumPy reads them, and nothing in them is ever run."""

from __future__ import annotations

import io
import os
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.sensors.contract import SourceError
from app.sensors.event_npy import EventNpy, read_columns
from app.sensors.formats import describe, open_source
from app.sensors.open import open_recording
from tests.app.sensors.samples import events_of, frames_of, read

GOLDEN = Path(__file__).resolve().parents[4] / "shared" / "golden" / "eventgpt" / "events"


def columns(n: int = 1000) -> dict[str, Any]:
    rng = np.random.default_rng(3)
    return {
        "x": rng.integers(0, 320, n).astype(np.uint16),
        "y": rng.integers(0, 240, n).astype(np.uint16),
        "t": np.sort(rng.integers(0, 50_000, n)).astype(np.int64),
        "p": rng.integers(0, 2, n).astype(np.uint8),
    }


def saved(path: Path, what: Any) -> Path:
    np.save(path, what, allow_pickle=True)
    return path


def pickled(path: Path, what: Any, protocol: int = 4) -> Path:
    """As np.save writes it: the header of an array of one object, then the pickle."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|O", "fortran_order": False, "shape": ()})
    path.write_bytes(head.getvalue() + (what if isinstance(what, bytes) else pickle.dumps(what, protocol)))
    return path


@pytest.mark.parametrize("name", ["sparse", "overlap"])
def test_golden_files(name: str) -> None:
    if not GOLDEN.exists():
        pytest.skip("the golden event files are not there: ../shared/golden/eventgpt/events")
    source = open_source(GOLDEN / f"{name}.npy")
    found, expected = events_of(read(source)), np.load(GOLDEN / f"{name}.npz")
    for column in ("t", "x", "y", "p"):
        assert (getattr(found, column) == expected[column]).all()
    assert source.info.resolution == (int(expected["x"].max()) + 1, int(expected["y"].max()) + 1)
    assert "resolution" in source.notes[0]
    assert source.ended_early is None


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_what_numpy_writes_is_read(tmp_path: Path, protocol: int) -> None:
    wanted = columns()
    saved(tmp_path / "a.npy", wanted)
    pickled(tmp_path / "b.npy", wanted, protocol)
    (tmp_path / "c.pkl").write_bytes(pickle.dumps(wanted, protocol))
    for name in ("a.npy", "b.npy", "c.pkl"):
        found = read_columns(tmp_path / name)
        assert all((found[key] == wanted[key]).all() and found[key].dtype == wanted[key].dtype for key in wanted)
    big_endian = {key: value.astype(value.dtype.newbyteorder(">")) for key, value in wanted.items()}
    big_endian["p"] = wanted["p"].astype(np.int8) * 2 - 1
    found = events_of(read(open_source(saved(tmp_path / "d.npy", big_endian))))
    assert (found.x == wanted["x"]).all()
    assert (found.p == wanted["p"]).all()


def test_seeking_resolution_and_frames(tmp_path: Path) -> None:
    path, wanted = saved(tmp_path / "a.npy", columns()), columns()
    source = open_recording(
        path, start_s=0.01, duration_s=0.02, resolution=(346, 260), reconstruct=True, loop=2, speed=None
    )
    assert source.info.resolution == (346, 260)
    origin = int(wanted["t"][0])
    inside = (wanted["t"] >= origin + 10_000) & (wanted["t"] < origin + 30_000)
    found = read(source)
    assert len(events_of(found)) == 2 * int(inside.sum())
    assert frames_of(open_and_read(path)) == []
    with pytest.raises(SourceError, match=r"--rgb VIDEO.*--frames reconstruct"):
        open_recording(path)
    info, notes = describe(path)
    assert (info.events, info.frames, info.damage, info.dropped_events) == (1000, 0, None, 0)
    assert "resolution" in notes[0]


def open_and_read(path: Path) -> list[Any]:
    return read(open_source(path))


class Runs:
    """A pickle that runs something when it is loaded."""

    def __init__(self, what: Any, *arguments: Any) -> None:
        self.what, self.arguments = what, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.what, self.arguments


class RunsOnState:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return np.ndarray, ((1,),), Runs(os.mkdir, str(self.mark))


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_nothing_is_ever_run(tmp_path: Path, protocol: int) -> None:
    mark = tmp_path / "mark"
    attacks: dict[str, Any] = {
        "system": Runs(os.system, f"touch {mark}"),
        "eval": Runs(eval, f"__import__('os').mkdir({str(mark)!r})"),
        "nested": {**columns(3), "x": [Runs(os.mkdir, str(mark))]},
        "key": {**columns(3), ("x", 1): (Runs(os.mkdir, str(mark)),)},
        "state": {**columns(3), "x": RunsOnState(mark)},
        "numpy": Runs(np.fromfile, str(tmp_path)),
        "load": Runs(pickle.loads, pickle.dumps(Runs(os.mkdir, str(mark)))),
    }
    for name, attack in attacks.items():
        for path in (pickled(tmp_path / f"{name}.npy", attack, protocol),):
            with pytest.raises(SourceError, match="not a readable EventGPT event file") as error:
                EventNpy(path)
            assert "\n" not in str(error.value)
            assert not mark.exists(), name


HAND_MADE = {
    "os.system by its C name": b"cposix\nsystem\n(S'touch MARK'\ntR.",
    "INST": b"(S'touch MARK'\nios\nsystem\n.",
    "OBJ": b"(cos\nsystem\nS'touch MARK'\no.",
    "NEWOBJ": b"\x80\x02cnumpy\nndarray\n)\x81.",
    "stack global": b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R.",
    "dotted name": b"\x80\x04\x8c\x05numpy\x8c\x0endarray.__new__\x93.",
    "numpy's own loader": b"\x80\x04\x8c\x05numpy\x8c\x04load\x93\x8c\x01a\x85R.",
    "extension": b"\x80\x02\x82\x01.",
    "persistent id": b"\x80\x02Pabc\n.",
    "huge memo number": b"\x80\x03]r\xff\xff\xff\x7f.",
    "huge bytes": b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x0f.",
    "huge string": b"\x80\x03X\xff\xff\xff\x7fabc.",
    "many": b"\x80\x03" + b"]" * 100_000 + b".",
    "nothing": b"",
}


@pytest.mark.parametrize("name", HAND_MADE)
def test_hand_made_pickles_are_refused(tmp_path: Path, name: str) -> None:
    mark = tmp_path / "mark"
    path = pickled(tmp_path / "a.npy", HAND_MADE[name].replace(b"MARK", str(mark).encode()))
    with pytest.raises(SourceError, match="not a readable EventGPT event file"):
        EventNpy(path)
    assert not mark.exists()


def test_other_arrays_are_refused(tmp_path: Path) -> None:
    ragged = {**columns(5), "t": np.arange(4)}
    objects = {**columns(2), "x": np.array([1, "a"], dtype=object)}
    bad: dict[str, tuple[Any, str]] = {
        "plain": (np.arange(5), "a plain array"),
        "ragged": (ragged, "differ in length"),
        "objects": (objects, "dtype 'O8'"),
        "text": ({**columns(1), "p": np.array(["a"])}, "dtype"),
        "record": ({**columns(1), "p": np.zeros(1, [("a", "u1")])}, "dtype"),
        "square": ({**columns(4), "x": np.zeros((2, 2))}, "1-D"),
        "missing": ({"x": np.arange(3)}, "x, y, t and p"),
        "list": ([1, 2], "x, y, t and p"),
        "no arrays": (dict.fromkeys("xytp", 5), "not an array"),
        "nan": ({**columns(2), "t": np.array([0, np.nan])}, "finite"),
        "negative": ({**columns(2), "x": np.array([-1, 2])}, "pixels"),
        "far": ({**columns(2), "t": np.array([0, 2**62])}, "beyond"),
    }
    for name, (what, why) in bad.items():
        with pytest.raises(SourceError, match=why) as error:
            EventNpy(saved(tmp_path / f"{name}.npy", what))
        assert "\n" not in str(error.value)
    with pytest.raises(SourceError, match="nothing to caption"):
        open_source(saved(tmp_path / "none.npy", columns(0)))
    claims = pickle.dumps(columns(100), 4).replace(b"Kd\x85", b"J\xff\xff\xff\x7f\x85")
    with pytest.raises(SourceError, match="length that it claims"):
        EventNpy(pickled(tmp_path / "claims.npy", claims))


def test_times_that_run_backwards_are_dropped_and_counted(tmp_path: Path) -> None:
    what = columns(100)
    what["t"][50] = 0
    source = open_source(saved(tmp_path / "a.npy", what))
    assert len(events_of(read(source))) == 99
    assert source.dropped_events == 1


def test_fuzz(tmp_path: Path) -> None:
    data, rng = saved(tmp_path / "a.npy", columns(50)).read_bytes(), random.Random(5)
    told = []
    for _ in range(300):
        flipped = bytearray(data)
        for _ in range(rng.choice([1, 3, 20])):
            flipped[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        (tmp_path / "f.npy").write_bytes(flipped[: rng.randrange(len(data))] if rng.random() < 0.3 else flipped)
        try:
            read(open_source(tmp_path / "f.npy"))
        except SourceError as error:
            told.append(str(error))
    assert told
    assert not any("\n" in line for line in told)
