"""EventGPT's event files: `.npy` holding a pickled dict of 1-D arrays x, y, t (µs, relative) and p.

Loading a pickle runs code, so NumPy's loader is never called. Every opcode is checked against a short list first; then
the pickle is read with stand-ins for the three names it may use, which only keep what they are given. Arrays are
made from the bytes afterwards.
"""

from __future__ import annotations

import pickle
import pickletools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from app.sensors.contract import Events, SourceError
from app.sensors.events import cut
from app.sensors.file_source import chunks
from app.sensors.merging import RawFrame

MAX_BYTES = 1 << 30  # about 80 million events; the columns are held in memory
MAX_OPCODES = 2_000  # a dict of four arrays needs about 120
COLUMNS = ("x", "y", "t", "p")
NUMERIC = re.compile(r"[biu][1248]|f[48]")

# building, memoising and calling; not one that names a class any other way, subclasses dict, or refers outside
OPCODES = frozenset(
    re.findall(
        r"\w+",
        """PROTO FRAME STOP MARK GLOBAL STACK_GLOBAL REDUCE BUILD MEMOIZE BINPUT LONG_BINPUT BINGET LONG_BINGET NONE
        NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 SHORT_BINUNICODE BINUNICODE BINUNICODE8 SHORT_BINBYTES BINBYTES
        BINBYTES8 BYTEARRAY8 EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST APPEND APPENDS EMPTY_DICT SETITEM
        SETITEMS""",
    )
)


class Refused(Exception):
    """Not a dict of plain arrays; the text says why, without the file's name."""


class _Kept:
    """Stands in for an array or a dtype: keeps the arguments and the state, and does nothing with them."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Reconstructed(_Kept): ...


class _FromBuffer(_Kept): ...


class _DType(_Kept): ...


class _NdArray(_Kept): ...


NAMES: dict[tuple[str, str], type[_Kept]] = {
    ("numpy", "dtype"): _DType,
    ("numpy", "ndarray"): _NdArray,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Reconstructed for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _FromBuffer for core in ("core", "_core")},
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in NAMES:
            raise Refused(f"its pickle asks for {module[:60]}.{name[:60]}; only plain NumPy arrays are loaded")
        return NAMES[module, name]


def read_columns(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays x, y, t, p [N] as stored. Raises Refused, OSError."""
    if path.stat().st_size > MAX_BYTES:
        raise Refused(f"larger than {MAX_BYTES >> 20} MiB; cut it into shorter recordings")
    with path.open("rb") as file:
        begin = _pickle_start(file)
        _check_opcodes(file)
        file.seek(begin)
        try:
            loaded = _Unpickler(file).load()
        except Refused:
            raise
        except Exception as error:  # the unpickler raises nearly anything on damaged input
            raise Refused(f"its pickle is damaged ({type(error).__name__})") from error
    if isinstance(loaded, _Reconstructed):  # np.save wraps the dict in an array of one object
        content = loaded.state[4] if isinstance(loaded.state, tuple) and len(loaded.state) == 5 else None
        loaded = content[0] if isinstance(content, list) and len(content) == 1 else None
    if not isinstance(loaded, dict) or any(name not in loaded for name in COLUMNS):
        raise Refused("not a dict of arrays x, y, t and p")
    columns = {name: _array(name, loaded[name]) for name in COLUMNS}
    if len({len(column) for column in columns.values()}) != 1:
        lengths = ", ".join(f"{name}: {len(column):,}" for name, column in columns.items())
        raise Refused(f"its arrays differ in length ({lengths})")
    return columns


def _pickle_start(file: BinaryIO) -> int:
    """Where the pickle begins, the file being left there: after NumPy's header, or at once."""
    head = file.read(12)
    if not head.startswith(b"\x93NUMPY"):
        file.seek(0)
        return 0
    begin = 10 if head[6:7] == b"\x01" else 12
    begin += int.from_bytes(head[8:begin], "little")
    file.seek(0)
    header = file.read(min(begin, 4096))
    if not re.search(rb"'descr': '\|?O8?'", header):
        raise Refused("a plain array, not a dict of arrays x, y, t and p")
    file.seek(begin)
    return begin


def _check_opcodes(file: BinaryIO) -> None:
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            if opcode.name not in OPCODES:
                raise Refused(f"its pickle uses {opcode.name}; only plain NumPy arrays are loaded")
            # the unpickler would make room for any memo number that it is told
            if count > MAX_OPCODES or ("BINPUT" in opcode.name and int(argument or 0) > MAX_OPCODES):
                raise Refused("its pickle is longer than a dict of four arrays can be")
    except Refused:
        raise
    except Exception as error:
        raise Refused("its pickle is damaged or cut short") from error


def _array(name: str, kept: Any) -> NDArray[Any]:
    """A 1-D numeric array from what the stand-ins kept. Raises Refused."""
    if isinstance(kept, _Reconstructed) and isinstance(kept.state, tuple) and len(kept.state) == 5:
        _, shape, dtype, _, data = kept.state
    elif isinstance(kept, _FromBuffer) and len(kept.arguments) == 4:
        data, dtype, shape, _ = kept.arguments
    else:
        raise Refused(f"{name} is not an array")
    if not isinstance(dtype, _DType) or not dtype.arguments or not isinstance(dtype.state, tuple):
        raise Refused(f"{name} has no dtype")
    code, order = str(dtype.arguments[0]), dtype.state[1] if len(dtype.state) > 1 else None
    if not NUMERIC.fullmatch(code) or order not in ("<", ">", "|", "=") or any(dtype.state[2:5]):
        raise Refused(f"{name} has dtype {code[:20]!r}; plain numbers are expected")
    plain = np.dtype(f"{order}{code}")
    if not isinstance(data, bytes | bytearray) or shape != (len(data) // plain.itemsize,):
        raise Refused(f"{name} is not a 1-D array of the length that it claims")
    if len(data) % plain.itemsize:
        raise Refused(f"{name} is cut short")
    return np.frombuffer(data, plain)


def _integers(name: str, column: NDArray[Any]) -> NDArray[np.int64]:
    if column.dtype.kind == "f" and not np.isfinite(column).all():
        raise Refused(f"{name} holds values that are not finite")
    if len(column) and (np.abs(column.astype(np.float64)).max() > 2**53):
        raise Refused(f"{name} holds values beyond ±2⁵³")
    return column.astype(np.int64)


class EventNpy:
    """One such file, in memory: 13 bytes an event. An `EventFile`.

    The format does not say how large the sensor is; where `resolution` (width, height) is left out it is taken to be
    just large enough for the events, and noted. Raises SourceError.
    """

    has_frames = False
    camera = ""

    def __init__(self, path: Path, resolution: tuple[int, int] | None = None) -> None:
        try:
            columns = read_columns(path)
            x, y, t = (_integers(name, columns[name]) for name in ("x", "y", "t"))
            if len(x) and (min(x.min(), y.min()) < 0 or max(x.max(), y.max()) >= 1 << 15):
                raise Refused("its coordinates are not pixels (0 to 32767)")
        except Refused as error:
            raise SourceError(f"{path}: not a readable EventGPT event file: {error}") from error
        except OSError as error:
            raise SourceError(f"{path}: cannot be read: {error.strerror}") from error
        p = (columns["p"] > 0).astype(np.uint8)
        self._events = Events(t, x.astype(np.int16), y.astype(np.int16), p)
        self.has_events = len(t) > 0
        self.start_us, self.end_us = (int(t.min()), int(t.max()) + 1) if len(t) else (0, 0)
        self.notes: tuple[str, ...] = ()
        self.damage: str | None = None
        if resolution is None:
            resolution = (int(x.max()) + 1, int(y.max()) + 1) if len(t) else (1, 1)
            size = f"{resolution[0]} × {resolution[1]}"
            self.notes = (f"the file does not tell the sensor's resolution; {size} holds all its events",)
        self.resolution = resolution

    def events(self, start_us: int) -> Iterator[Events]:
        t = self._events.t
        in_order = bool((t[1:] >= t[:-1]).all())
        yield from chunks(cut(self._events, start_us, self.end_us) if in_order else self._events)

    def frames(self, start_us: int) -> Iterator[RawFrame]:
        yield from ()

    def close(self) -> None:
        """Nothing is held open."""
