"""DSEC event files: HDF5 with events/{x, y, t, p}, t_offset and ms_to_idx (https://dsec.ifi.uzh.ch/data-format/).

Beside `events.h5` may lie `rectify_map.h5`, which is applied to the events; the images of the sequence are found
in `images/`, next to the file or two folders up, where the data set has them. Both are optional.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.sensors.contract import Events, SourceError
from app.sensors.file_source import CHUNK_EVENTS
from app.sensors.merging import LAST_EVENTS, RawFrame, end_of, first_line

COLUMNS = ("x", "y", "t", "p")
DSEC_RESOLUTION = (640, 480)
MAX_CHUNK_BYTES = 64 << 20  # HDF5 decodes a whole chunk at once, whatever is asked of it
MAX_SIDE = 1 << 12
SMALLEST_RUN = 256  # near damage, no smaller piece is tried
MOST_COMPRESSED = 10_000  # times that increase cannot be stored in less; a claimed length alone costs nothing


class Dsec:
    """One sequence. An `EventFile`. Raises SourceError."""

    def __init__(self, path: Path, resolution: tuple[int, int] | None = None) -> None:
        try:
            import h5py
            import hdf5plugin  # noqa: F401  registers Blosc and Zstandard with HDF5
        except ImportError as error:
            raise SourceError(
                f"{path}: HDF5 needs two more packages; install them: pip install -e '.[hdf5]' in the clone"
            ) from error
        self._h5py = h5py
        self.camera = "DSEC"
        self.notes: tuple[str, ...] = ()
        self.damage: str | None = None
        try:
            self._file = h5py.File(path, "r", locking=False)
        except (OSError, RuntimeError) as error:
            raise SourceError(f"{path}: not a readable HDF5 file: {first_line(error)}") from error
        try:
            self._open(path, resolution)
        except SourceError:
            self._file.close()
            raise
        except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
            self._file.close()
            raise SourceError(f"{path}: not a readable DSEC file: {first_line(error)}") from error

    def _open(self, path: Path, resolution: tuple[int, int] | None) -> None:
        self._columns = {name: self._dataset(f"events/{name}", 1) for name in COLUMNS}
        lengths = {len(column) for column in self._columns.values()}
        self._count = min(lengths)
        t = self._columns["t"]
        if t.nbytes > MOST_COMPRESSED * t.id.get_storage_size():
            raise ValueError(f"it claims {len(t):,} events and does not hold them")
        if len(lengths) > 1:
            self.damage = "truncated (its columns differ in length)"
        self._offset_us = int(self._dataset("t_offset", 0)[()]) if "t_offset" in self._file else 0
        self._map = self._read_map(path.with_name("rectify_map.h5"))
        size = DSEC_RESOLUTION if self._map is None else (self._map.shape[1], self._map.shape[0])
        self.resolution = resolution or size
        self._images = self._find_images(path)
        self.has_events, self.has_frames = self._count > 0, bool(self._images)
        times = [t for t, _ in self._images]
        if self.has_events:
            self.start_us, self.end_us = int(t[0]) + self._offset_us, end_of(self._last()) + self._offset_us
            # images from before the events do not belong to the recording, and none is played past its end
            self._images = [(t, name) for t, name in self._images if self.start_us <= t < self.end_us]
            self.has_frames = bool(self._images)
            if times and not self._images:
                self.notes += ("none of its images falls into the time of its events; they are left out",)
        else:
            self.start_us, self.end_us = (times[0], times[-1] + 1) if times else (0, 0)

    def _last(self) -> NDArray[np.int64]:
        """Times of the last events, without t_offset; of the very last one where those before it are damaged."""
        t, count = self._columns["t"], self._count
        try:
            last = t[max(0, count - LAST_EVENTS) : count]
        except (OSError, RuntimeError):
            last = t[count - 1 : count]
        found: NDArray[np.int64] = last.astype(np.int64)
        return found

    def _dataset(self, name: str, dimensions: int, file: Any = None) -> Any:
        """A numeric dataset stored in the file itself, in chunks of bounded size. Raises ValueError."""
        file = self._file if file is None else file
        for depth in range(1, name.count("/") + 2):
            part = "/".join(name.split("/")[:depth])
            if file.get(part, getlink=True) is None:
                raise ValueError(f"it has no dataset {name}; events/x, y, t, p are expected")
            if not isinstance(file.get(part, getlink=True), self._h5py.HardLink):
                raise ValueError(f"{part} is a link; only data in the file itself are read")
        data = file[name]
        if not isinstance(data, self._h5py.Dataset) or data.ndim != dimensions or data.dtype.kind not in "iufb":
            raise ValueError(f"{name} is not an array of numbers with {dimensions} dimensions")
        if data.external or data.is_virtual:
            raise ValueError(f"{name} refers to another file; only data in the file itself are read")
        if data.chunks and int(np.prod(data.chunks)) * data.dtype.itemsize > MAX_CHUNK_BYTES:
            raise ValueError(f"{name} claims chunks of more than {MAX_CHUNK_BYTES >> 20} MiB")
        return data

    def _read_map(self, path: Path) -> NDArray[np.float32] | None:
        """float32 [H, W, 2]: where pixel (x, y) lies after rectification; None and a note where it is unusable."""
        if not path.is_file():
            return None
        try:
            with self._h5py.File(path, "r", locking=False) as file:
                data = self._dataset("rectify_map", 3, file)
                height, width, two = data.shape
                if two != 2 or not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE):
                    raise ValueError(f"its shape is {data.shape}")
                found: NDArray[np.float32] = np.nan_to_num(data[()].astype(np.float32), nan=-1.0)
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            self.notes += (f"{path.name} cannot be used ({first_line(error)}); events are not rectified",)
            return None
        self.notes += (f"events are rectified with {path.name}; those that leave the sensor by it are dropped",)
        return found

    def _find_images(self, path: Path) -> list[tuple[int, Path]]:
        """(sensor time, file) in time order."""
        path = path.absolute()  # a relative one has no folders above it to look in
        side = path.parent.name if path.parent.name in ("left", "right") else "left"
        for root in (path.parent, *path.parents[1:3]):
            for folder in (
                *(f"images/{side}/{kind}" for kind in ("rectified", "distorted")),
                f"images/{side}",
                "images",
            ):
                names = sorted(p for p in (root / folder).glob("*") if p.suffix.lower() in (".png", ".jpg"))
                if names:
                    return self._timed(names, root / "images", side)
        return []

    def _timed(self, names: list[Path], images: Path, side: str) -> list[tuple[int, Path]]:
        places = (images, images / side, images.parent)
        wanted = ("timestamps.txt", "image_timestamps.txt", "*_image_timestamps.txt", "exposure_timestamps.txt")
        for pattern in wanted:
            for found in (p for place in places for p in sorted(place.glob(pattern))):
                try:
                    times = _timestamps(found)
                except (OSError, ValueError):
                    self.notes += (f"{found.name} holds no timestamps in µs; it is left out",)
                    continue
                if len(times) != len(names):
                    self.notes += (f"{len(names)} images but {len(times)} timestamps; the surplus is left out",)
                return sorted(zip(times, names, strict=False))
        self.notes += (f"its {len(names)} images have no timestamps.txt; they are left out",)
        return []

    def _first_at(self, start_us: int) -> int:
        """Index of the first event at or after `start_us`: from ms_to_idx where that holds, else by bisection."""
        t, wanted = self._columns["t"], start_us - self._offset_us
        if wanted <= int(t[0]):
            return 0
        if "ms_to_idx" in self._file:
            index = self._dataset("ms_to_idx", 1)
            at = int(index[min(wanted // 1000, len(index) - 1)]) if len(index) else 0
            if 0 < at < self._count and int(t[at - 1]) < wanted:
                return at
        low, high = 0, self._count
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if int(t[middle]) < wanted else (low, middle)
        return low

    def events(self, start_us: int) -> Iterator[Events]:
        for first in range(self._first_at(start_us), self._count, CHUNK_EVENTS):
            yield from self._runs(first, min(first + CHUNK_EVENTS, self._count))

    def _runs(self, first: int, last: int) -> Iterator[Events]:
        """Events [first, last) at once, or in smaller pieces up to the damage that keeps them from being read so."""
        try:
            run = self._decode(slice(first, last))
        except (OSError, RuntimeError):
            if last - first < SMALLEST_RUN:
                raise
            middle = (first + last) // 2
            yield from self._runs(first, middle)
            yield from self._runs(middle, last)
        else:
            yield run

    def _decode(self, part: slice) -> Events:
        x, y, t, p = (self._columns[name][part] for name in COLUMNS)
        x, y = x.astype(np.int32), y.astype(np.int32)
        if self._map is not None:
            x, y = self._rectified(x, y)
        outside = (x < 0) | (y < 0) | (x >= self.resolution[0]) | (y >= self.resolution[1])
        x[outside] = -1
        t = t.astype(np.int64) + self._offset_us
        return Events(t, x.astype(np.int16), y.astype(np.int16), (p > 0).astype(np.uint8))

    def _rectified(self, x: NDArray[np.int32], y: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        assert self._map is not None
        height, width, _ = self._map.shape
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        moved = np.rint(self._map[np.where(inside, y, 0), np.where(inside, x, 0)]).clip(-1, MAX_SIDE).astype(np.int32)
        return np.where(inside, moved[:, 0], -1), moved[:, 1]

    def frames(self, start_us: int) -> Iterator[RawFrame]:
        import cv2

        for t_us, name in self._images:
            if t_us < start_us:
                continue
            try:
                image = cv2.imread(str(name), cv2.IMREAD_COLOR)
            except cv2.error:  # it claims more pixels than OpenCV takes
                image = None
            if image is None:
                raise ValueError(f"image {name.name} cannot be read")
            yield RawFrame(t_us, np.ascontiguousarray(image[:, :, ::-1]))

    def close(self) -> None:
        self._file.close()


def _timestamps(path: Path) -> list[int]:
    """One time a line in µs; of an exposure's two, the middle. Lines that begin with # are comments."""
    times = []
    for line in path.read_text(encoding="ascii").splitlines():
        if line.strip() and not line.startswith("#"):
            numbers = [int(number) for number in re.split(r"[,\s]+", line.strip())][:2]
            times.append(sum(numbers) // len(numbers))
    return times
