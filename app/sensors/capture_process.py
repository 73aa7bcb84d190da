"""Reads one camera in a process of its own and writes what it gives to a pipe, as `protocol` says.

Why a process: drivers hold the GIL for whole calls, hang, and crash; none of that reaches the event loop. A thread
writes the pipe; between it and the device lie at most QUEUED_BYTES, of which the oldest give way: a slow reader of the
pipe makes neither the device wait nor memory grow. An alarm ends the process when one call never returns, and it ends
when its standard input does, which its parent holds open.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections import deque
from typing import Any, BinaryIO, NoReturn

from app.sensors.contract import Events, SourceError
from app.sensors.device import Device
from app.sensors.events import batches, select
from app.sensors.merging import BATCH_US, RawFrame, sane
from app.sensors.protocol import FRAME, HEADER
from app.sensors.spec import CameraSpec, EventCameraSpec, Size, from_json

QUEUED_BYTES = 32 << 20
OPEN_S, STALL_S = 20.0, 20.0  # a call that takes longer never returns
LAST_WORDS_S = 1.0
RELEASE_S = 1.5  # for the device, once nobody listens any more
FOR_EVER_US = 2**62
JUMP_US = 1_000_000  # a time that falls back by more has had its clock set; no batch of events is as long


class Stopped(BaseException):
    """SIGTERM: release the device and leave."""


class Outgoing:
    """What waits for the pipe: bounded, the newest wins, what gives way is counted."""

    def __init__(self, most_bytes: int = QUEUED_BYTES) -> None:
        self.dropped = {"events": 0, "frames": 0}
        self._most = most_bytes
        self._items: deque[tuple[bytes, int, list[bytes]]] = deque()  # kind, how many events, parts of the payload
        self._bytes = 0
        self._changed = threading.Condition()

    def put(self, item: Events | RawFrame) -> None:
        if isinstance(item, Events):
            parts = [item.t.tobytes(), item.x.tobytes(), item.y.tobytes(), item.p.tobytes()]
            entry = b"E", len(item), parts
        else:
            height, width = item.image.shape[:2]
            channels = item.image.shape[2] if item.image.ndim == 3 else 1
            head = FRAME.pack(item.t_us, item.exposure_us, height, width, channels)
            entry = b"F", 0, [head, item.image.tobytes()]
        with self._changed:
            self._items.append(entry)
            self._bytes += sum(map(len, entry[2]))
            while self._bytes > self._most and len(self._items) > 1:
                kind, count, parts = self._items.popleft()
                self._bytes -= sum(map(len, parts))
                self.dropped["events" if kind == b"E" else "frames"] += count if kind == b"E" else 1
            self._changed.notify()

    def end(self, error: str) -> None:
        """The last message, behind all that waits."""
        with self._changed:
            self._items.append((b"X", 0, [json.dumps({"error": error}).encode()]))
            self._changed.notify()

    def take(self) -> tuple[bytes, list[bytes]]:
        """The oldest that waits, waiting for it."""
        with self._changed:
            self._changed.wait_for(lambda: self._items)
            kind, _, parts = self._items.popleft()
            if kind != b"X":
                self._bytes -= sum(map(len, parts))
            return kind, parts


class InOrder:
    """What a sensor of `size` can have sent, in time order, also after its clock was set back."""

    def __init__(self, size: Size) -> None:
        self._size, self._last_us, self._last_frame_us = size, -FOR_EVER_US, -FOR_EVER_US

    def events(self, run: Events) -> Events:
        """Those that are placed on the sensor, in order, and not a damaged second away from the others of the run."""
        if not len(run):
            return run
        around_us = sorted((int(run.t[0]), int(run.t[len(run) // 2]), int(run.t[-1])))[1]  # one of them may be damaged
        if around_us < self._last_us - JUMP_US:
            self._last_us = -FOR_EVER_US
        good = sane(run, self._size, max(self._last_us, around_us - JUMP_US), around_us + JUMP_US)
        if not good.all():
            run = select(run, good)
        if len(run):
            self._last_us = int(run.t[-1])
        return run

    def frame(self, frame: RawFrame) -> bool:
        """Whether it is newer than the one before, or of a clock that was set back."""
        if self._last_frame_us - JUMP_US <= frame.t_us <= self._last_frame_us:
            return False
        self._last_frame_us = frame.t_us
        return True


def open_device(spec: CameraSpec) -> Device:
    """Raises SourceError."""
    if spec.network is not None:
        from app.sensors.dv_network import NetworkStream

        return NetworkStream(spec)
    if isinstance(spec, EventCameraSpec):
        from app.sensors.inivation import InivationCamera

        return InivationCamera(spec)
    if spec.gstreamer is not None:
        from app.sensors.gstreamer import GStreamerCamera

        return GStreamerCamera(spec)
    from app.sensors.opencv_camera import OpenCvCamera

    return OpenCvCamera(spec)


def send(pipe: BinaryIO, kind: bytes, *parts: bytes) -> None:
    pipe.write(b"".join((HEADER.pack(kind, sum(map(len, parts))), *parts)))
    pipe.flush()


def send_json(pipe: BinaryIO, kind: bytes, value: dict[str, Any]) -> None:
    send(pipe, kind, json.dumps(value).encode())


def write_on(outgoing: Outgoing, pipe: BinaryIO) -> None:
    """The writing thread. Ends the process when nobody reads any more, or after the last message."""
    told = dict(outgoing.dropped)
    try:
        while True:
            kind, parts = outgoing.take()
            send(pipe, kind, *parts)
            if kind == b"X":
                return
            if outgoing.dropped != told:
                told = dict(outgoing.dropped)
                send_json(pipe, b"D", told)
    except OSError:
        _stop_soon()


def read_on(device: Device, outgoing: Outgoing, wanted: threading.Event) -> NoReturn:
    """The reading loop: batches of at most BATCH_US. Raises SourceError at the end.

    What comes before it is wanted is let go: nobody asks for what happened while another camera was being opened.
    """
    in_order = InOrder(device.size)
    while True:
        signal.setitimer(signal.ITIMER_REAL, STALL_S)
        items = device.read()
        if not wanted.is_set():
            continue
        for item in items:
            if isinstance(item, RawFrame):
                if in_order.frame(item):
                    outgoing.put(item)
                else:
                    outgoing.dropped["frames"] += 1
                continue
            good = in_order.events(item)
            outgoing.dropped["events"] += len(item) - len(good)
            for batch in batches(good, 0, BATCH_US):
                outgoing.put(batch)


def _stop_soon() -> None:
    """From another thread: the device is released in the one that reads it, unless that takes too long."""
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(RELEASE_S)
    os._exit(1)


def _until_orphaned(wanted: threading.Event) -> None:
    """The watching thread: a line says that items are wanted; standard input ends when the parent does."""
    while os.read(0, 1024):
        wanted.set()
    _stop_soon()


def _stopped(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: the device is being released
    raise Stopped


def main(argv: list[str]) -> None:
    """`capture_process FD`; what to capture comes as a line of JSON on standard input: it may hold a password.

    A second line, an empty one, asks for what the device gives from then on.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is the parent's to handle
    signal.signal(signal.SIGTERM, _stopped)
    pipe = os.fdopen(int(argv[0]), "wb")
    device: Device | None = None
    writer: threading.Thread | None = None
    outgoing, wanted = Outgoing(), threading.Event()
    try:
        spec = from_json(sys.stdin.readline())
        signal.setitimer(signal.ITIMER_REAL, OPEN_S)
        device = open_device(spec)
        hello = {"name": device.name, "clock": device.clock, "size": device.size}
        send_json(pipe, b"I", hello | {"events": device.has_events, "frames": device.has_frames})
        threading.Thread(target=_until_orphaned, args=(wanted,), daemon=True).start()
        writer = threading.Thread(target=write_on, args=(outgoing, pipe), daemon=True)
        writer.start()
        read_on(device, outgoing, wanted)
    except Stopped:
        pass
    except Exception as error:
        text = str(error) if isinstance(error, SourceError) else f"{type(error).__name__}: {error}".splitlines()[0]
        outgoing.end(text)
        if writer is None:
            write_on(outgoing, pipe)
        else:
            writer.join(LAST_WORDS_S)
    finally:
        if device is not None:
            device.close()
        os._exit(0)  # the threads hold nothing that needs an end


if __name__ == "__main__":
    main(sys.argv[1:])
