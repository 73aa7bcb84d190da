"""AEDAT 2.0, as jAER writes it: a text header, then big-endian pairs of a 32-bit address and a 32-bit time in µs.

The address is a DAVIS chip's (other chips are refused): bit 31 clear, bit 10 clear: an event, polarity in bit 11,
x in bits 12–21, y in bits 22–30; bit 31 set and bits 10–11 00 or 01: a reset or signal sample of a frame's pixel, ten
bits. jAER's origin is the lower left, and it mirrors the x of events, not that of samples.
https://docs.inivation.com/software/software-advanced-usage/file-formats/aedat-2.0.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.sensors.aedat_header import davis_resolution, read_header
from app.sensors.contract import Events, SourceError
from app.sensors.file_source import CHUNK_EVENTS
from app.sensors.merging import LAST_EVENTS, RawFrame, end_of

RECORD = np.dtype([("address", ">u4"), ("time", ">u4")])
APS, SUBTYPE, RESET, SIGNAL, SPECIAL = 0x8000_0000, 0xC00, 0x000, 0x400, 0x400
ADC_MAX = 1023
RESET_US = 1_000_000  # a step back by more is the counter being reset, as jAER allows; less is disorder
WHOLE = 0.9  # a frame that lost more of its pixels is left out

Address = NDArray[np.uint32]


class Aedat2:
    """One recording. An `EventFile`. Opening reads all of it once, in chunks. Raises SourceError."""

    def __init__(self, path: Path, resolution: tuple[int, int] | None = None) -> None:
        self._path = path
        try:
            with path.open("rb") as file:
                header = read_header(file)
        except (OSError, ValueError) as error:
            raise SourceError(f"{path}: not a readable AEDAT recording: {error}") from error
        if header.version != "2.0":
            raise SourceError(f"{path}: AEDAT {header.version} is not supported; convert it to AEDAT 4 with DV")
        chip = next((found[1] for line in header.lines if (found := re.match(r"\s*AEChip:\s*(\S+)", line))), "")
        self.camera = chip.rsplit(".", 1)[-1]
        size = davis_resolution(self.camera) if self.camera.lower().startswith("davi") else None
        if size is None:
            named = f"names the chip {self.camera!r}" if chip else "names no chip (AEChip)"
            raise SourceError(f"{path}: its header {named}; of AEDAT 2.0, DAVIS recordings are read")
        self.resolution = resolution or size
        self._data_at = header.size
        self.notes: tuple[str, ...] = ()
        self.damage: str | None = None
        self._resets = 0
        self._scan()
        if self._resets:
            self.notes += (f"its time counter was set back {self._resets} times; time goes on from there",)

    def _records(self) -> Iterator[tuple[Address, NDArray[np.int64]]]:
        """Addresses and unwrapped times, a chunk at a time."""
        last, now_us = None, 0
        with self._path.open("rb") as file:
            file.seek(self._data_at)
            while data := file.read(CHUNK_EVENTS * RECORD.itemsize):
                if len(data) % RECORD.itemsize:
                    self.damage = "truncated (it ends within an event)"
                records = np.frombuffer(data, RECORD, len(data) // RECORD.itemsize)
                if not len(records):
                    return
                raw = records["time"].astype(np.uint32)
                # differences modulo 2³²: the counter may wrap, and times may run backwards
                steps = np.diff(raw, prepend=raw[0] if last is None else last).astype(np.int32).astype(np.int64)
                back = steps < -RESET_US
                steps[back] = 0
                self._resets += int(np.count_nonzero(back))
                now_us = int(raw[0]) if last is None else now_us
                times = now_us + np.cumsum(steps)
                last, now_us = raw[-1], int(times[-1])
                yield records["address"].astype(np.uint32), times

    def _scan(self) -> None:
        """Learn the time range and what streams there are."""
        self.start_us = self.end_us = 0
        events = signals = 0
        last = np.empty(0, np.int64)
        try:
            for address, times in self._records():
                self.start_us = self.start_us if len(last) else int(times[0])
                last = np.concatenate([last, times[-LAST_EVENTS:]])[-LAST_EVENTS:]
                self.end_us = end_of(last)
                events += int(np.count_nonzero(address & (APS | SPECIAL) == 0))
                signals += int(np.count_nonzero(address & (APS | SUBTYPE) == APS | SIGNAL))
        except OSError as error:
            raise SourceError(f"{self._path}: cannot be read: {error.strerror}") from error
        self.has_events = events > 0
        self.has_frames = signals >= WHOLE * self.resolution[0] * self.resolution[1]

    def events(self, start_us: int) -> Iterator[Events]:
        width, height = self.resolution
        for address, times in self._records():
            if times[-1] < start_us:
                continue
            chosen = address & (APS | SPECIAL) == 0
            x, y, p = _columns(address[chosen])
            yield Events(times[chosen], width - 1 - x, height - 1 - y, p)

    def frames(self, start_us: int) -> Iterator[RawFrame]:
        """Reset minus signal, ten bits to eight. A frame ends where the next signal sample starts at another corner."""
        width, height = self.resolution
        frame = _Frame(width, height)
        last = None
        for address, times in self._records():
            chosen = (address & APS != 0) & (address & SUBTYPE <= SIGNAL)
            address, times = address[chosen], times[chosen]
            if not len(address):
                continue
            x, y, _ = _columns(address)
            signal = address & SUBTYPE == SIGNAL
            # within a scan one coordinate goes on by one or stays; both jump where the next frame begins
            at = np.flatnonzero(signal)
            positions = np.stack([x[at], y[at]]).astype(np.int32)
            jumps = np.abs(np.diff(positions, prepend=positions[:, :1] if last is None else last)).min(0) > 1
            if len(at):
                last = positions[:, -1:]
            bounds = [0, *at[jumps].tolist(), len(address)]
            value = (address & ADC_MAX).astype(np.int16)
            inside = (x >= 0) & (x < width) & (y < height)
            for i, (begin, end) in enumerate(pairwise(bounds)):
                if i and (whole := frame.take()):
                    yield whole
                part = slice(begin, end)
                keep = inside[part]
                frame.add(
                    times[part][keep], x[part][keep], height - 1 - y[part][keep], value[part][keep], signal[part][keep]
                )
        if whole := frame.take():
            yield whole

    def close(self) -> None:
        """Nothing is held open."""


class _Frame:
    """One frame being put together from its samples."""

    def __init__(self, width: int, height: int) -> None:
        self._reset = np.full((height, width), ADC_MAX, np.int16)
        self._signal = np.zeros((height, width), np.int16)
        self._seen = np.zeros((height, width), np.bool_)
        self._t_us: int | None = None

    def add(
        self,
        times: NDArray[np.int64],
        x: NDArray[np.int16],
        y: NDArray[np.int16],
        value: NDArray[np.int16],
        signal: NDArray[np.bool_],
    ) -> None:
        self._reset[y[~signal], x[~signal]] = value[~signal]
        x, y = x[signal], y[signal]
        if len(x) and self._t_us is None:
            self._t_us = int(times[signal][0])
        self._signal[y, x] = value[signal]
        self._seen[y, x] = True

    def take(self) -> RawFrame | None:
        """The frame, if whole; then start anew."""
        t_us, whole = self._t_us, self._seen.mean() >= WHOLE
        difference = np.where(self._seen, self._reset - self._signal, 0).clip(0, ADC_MAX)
        self._seen[:], self._t_us = False, None
        return RawFrame(t_us, (difference >> 2).astype(np.uint8)) if whole and t_us is not None else None


def _columns(address: Address) -> tuple[NDArray[np.int16], NDArray[np.int16], NDArray[np.uint8]]:
    """x, y as in the address, and bit 11."""
    x, y = (address >> 12) & 0x3FF, (address >> 22) & 0x1FF
    return x.astype(np.int16), y.astype(np.int16), ((address >> 11) & 1).astype(np.uint8)
