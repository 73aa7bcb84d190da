"""AEDAT4 recordings as a source. dv-processing runs in a child process (see `reader`): damage cannot reach this one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.sensors.contract import Item, SourceError, SourceInfo
from app.sensors.protocol import read_message, unpack_events, unpack_frame

STALL_S = 20.0  # one call into dv-processing takes milliseconds; this long means that it will never return
MESSAGES_A_HOP, BYTES_A_HOP = 16, 1 << 20


@dataclass(frozen=True, slots=True)
class RecordingInfo:
    """What a recording holds, counted by reading all of it."""

    path: str
    camera: str
    streams: tuple[str, ...]
    resolution: tuple[int, int]  # (width, height)
    start_us: int
    end_us: int
    events: int
    frames: int
    imu: int
    triggers: int
    events_span_us: int  # first to last event
    frame_size: tuple[int, int] | None
    grey: bool | None  # frames have one channel; None without frames
    damage: str | None
    dropped_events: int  # outside the sensor or out of time order

    @property
    def duration_us(self) -> int:
        return self.end_us - self.start_us

    @property
    def event_rate(self) -> float:
        """Events a second, over the time in which there were events."""
        return self.events * 1e6 / self.events_span_us if self.events_span_us else 0.0


class _Child:
    """The reader process and its pipe."""

    def __init__(self, path: Path, stall_s: float, *arguments: str) -> None:
        if not path.exists():
            raise SourceError(f"{path}: no such recording; check the path")
        if not path.is_file() or not os.access(path, os.R_OK):
            raise SourceError(f"{path}: cannot be read; a recording is a file you may read")
        self._path, self._stall_s = path, stall_s
        root = str(Path(__file__).resolve().parents[2])
        search = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        # its folder is ours to clear: an alarm ends the process without a chance to tidy up
        self._folder = tempfile.TemporaryDirectory(prefix="event-captioner-")
        receive, send = os.pipe()
        command = [sys.executable, "-P", "-m", "app.sensors.reader", str(send), str(path), self._folder.name]
        self._process = subprocess.Popen(
            [*command, str(stall_s), *arguments],
            pass_fds=(send,),
            env={**os.environ, "PYTHONPATH": search},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(send)
        self._pipe = os.fdopen(receive, "rb", buffering=1 << 20)

    def read(self) -> tuple[bytes, bytes]:
        """The next message, blocking; kind b"" where the process ended without saying so."""
        return read_message(self._pipe)

    def read_some(self) -> list[tuple[bytes, bytes]]:
        """The next few messages, so that a thread hop is not paid for each; never past the last one."""
        messages = [self.read()]
        size = len(messages[0][1])
        while messages[-1][0] in (b"E", b"F") and len(messages) < MESSAGES_A_HOP and size < BYTES_A_HOP:
            messages.append(self.read())
            size += len(messages[-1][1])
        return messages

    def read_info(self) -> dict[str, Any]:
        """The first message. Raises SourceError for what cannot be read, and ends the process then."""
        kind, payload = self.read()
        if kind == b"I":
            return dict(json.loads(payload))
        reason = json.loads(payload)["error"] if kind == b"X" else self.death()
        self.close()
        raise SourceError(f"{self._path}: not a readable AEDAT4 recording: {reason}")

    def death(self) -> str:
        """Why the process ended without saying so."""
        code = self._process.wait()
        if code == -signal.SIGALRM:
            return f"damaged: reading did not return within {self._stall_s:g} s"
        return f"damaged: the reader ended with {signal.Signals(-code).name if code < 0 else f'exit code {code}'}"

    def close(self) -> None:
        """End the process; a read that is waiting in another thread then sees the end of the pipe."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._folder.cleanup()

    def __del__(self) -> None:
        if hasattr(self, "_process"):
            self.close()
            with contextlib.suppress(OSError):
                self._pipe.close()


def describe(path: str | Path, stall_s: float = STALL_S) -> RecordingInfo:
    """Read all of a recording and count what it holds. Raises SourceError."""
    child = _Child(Path(path), stall_s, "describe")
    try:
        info = child.read_info()
    finally:
        child.close()
    counts = info["counts"]
    return RecordingInfo(
        path=str(path),
        camera=info["camera"],
        streams=tuple(info["streams"]),
        resolution=(info["resolution"][0], info["resolution"][1]),
        start_us=info["start_us"],
        end_us=info["end_us"],
        events=counts["events"],
        frames=counts["frames"],
        imu=counts["imu"],
        triggers=counts["triggers"],
        events_span_us=info["events_span_us"],
        frame_size=(info["frame_size"][0], info["frame_size"][1]) if info["frame_size"] else None,
        grey=info["grey"],
        damage=info["damage"],
        dropped_events=info["dropped"],
    )


class Recording:
    """One pass over an AEDAT4 file, as fast as it is consumed: events in batches of ≤ 5 ms and frames, in time order.

    `start_s` and `duration_s` count from the recording's first sensor time. Memory is bounded by a batch and the
    file's own packets. After the end, `ended_early` says where and why a damaged recording stopped, and how
    much was read before.

    Raises SourceError (one line) when the file is missing, foreign, or holds neither events nor frames.
    """

    def __init__(
        self, path: str | Path, start_s: float = 0.0, duration_s: float | None = None, stall_s: float = STALL_S
    ) -> None:
        self._path = Path(path)
        if start_s < 0 or (duration_s is not None and duration_s <= 0):
            raise SourceError(f"{path}: the start must be ≥ 0 s and the duration > 0 s")
        self._child = _Child(self._path, stall_s, str(start_s), str(-1.0 if duration_s is None else duration_s))
        info = self._child.read_info()
        damage = f" ({info['damage']})" if info["damage"] else ""
        length_s = (info["end_us"] - info["start_us"]) / 1e6
        if not info["has_events"] and not info["has_frames"]:
            self._child.close()
            raise SourceError(f"{path}: holds no events and no frames{damage}; there is nothing to caption")
        if start_s >= length_s:
            self._child.close()
            raise SourceError(f"{path}: --start {start_s:g} s is past its end; it lasts {length_s:.3f} s{damage}")
        self.origin_us = int(info["start_us"])  # first sensor time of the whole file
        start_us = self.origin_us + round(start_s * 1e6)
        end_us = int(info["end_us"])
        if duration_s is not None:
            end_us = min(end_us, start_us + round(duration_s * 1e6))
        self._info = SourceInfo(
            name=info["camera"] or self._path.stem,
            resolution=(info["resolution"][0], info["resolution"][1]),
            has_events=info["has_events"],
            has_frames=info["has_frames"],
            live=False,
            start_us=start_us,
            end_us=end_us,
        )
        self._events = 0
        self._last_us = start_us
        self.ended_early: str | None = None
        self.dropped_events = 0  # outside the sensor or out of time order
        self._closed = False

    @property
    def info(self) -> SourceInfo:
        return self._info

    @property
    def notes(self) -> tuple[str, ...]:
        return (f"{self._path}: no events: the target captions alone",) if not self._info.has_events else ()

    async def __aiter__(self) -> AsyncIterator[Item]:
        while not self._closed:
            for kind, payload in await asyncio.to_thread(self._child.read_some):
                if kind == b"E":
                    events = unpack_events(payload)
                    self._events += len(events)
                    self._last_us = int(events.t[-1])
                    yield events
                elif kind == b"F":
                    frame = unpack_frame(payload)
                    self._last_us = frame.t_us
                    yield frame
                else:
                    self._end(kind, payload)
                    return
                if self._closed:
                    return

    def _end(self, kind: bytes, payload: bytes) -> None:
        if self._closed:
            return
        if kind == b"Z":
            end = json.loads(payload)
            reason, self.dropped_events = end["ended_early"], end["dropped"]
        else:
            reason = json.loads(payload)["error"] if kind == b"X" else self._child.death()
        if reason:
            at_s = (self._last_us - self.origin_us) / 1e6
            self.ended_early = f"{self._path}: {reason} at {at_s:.1f} s; {self._events:,} events before it were read"
        self._child.close()

    async def close(self) -> None:
        self._closed = True
        await asyncio.to_thread(self._child.close)
