"""A capture process and its pipe, from the side of the event loop: see `capture_process`."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from app.sensors.capture_process import OPEN_S, STALL_S
from app.sensors.contract import Item, SourceError
from app.sensors.protocol import HEADER, unpack_events, unpack_frame
from app.sensors.spec import CameraSpec, to_json

HELLO_S = OPEN_S + 5.0
STOP_S = 2.0
LOOK_S = 0.1  # between two looks whether the opening was called off
PIPE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Hello:
    """What a capture process says of the device it has opened."""

    name: str
    clock: str
    size: tuple[int, int]
    events: bool
    frames: bool


class Capture:
    """One capture process, of `module`. Opening blocks until the device is open, or another thread sets `called_off`.

    Raises SourceError, also when it was called off.
    """

    def __init__(
        self,
        spec: CameraSpec,
        module: str = "app.sensors.capture_process",
        called_off: threading.Event | None = None,
    ) -> None:
        self.dropped = {"events": 0, "frames": 0}
        self._name, self._called_off = spec.name, called_off or threading.Event()
        self._look()
        self._pipe, self._process = self._start(module)
        try:
            self._tell(to_json(spec).encode() + b"\n")
            self.hello = self._hello()
        except (SourceError, OSError) as error:
            self._process.kill()  # a call that opens a device may hear no signal, and nothing is open that needs an end
            self.close()
            raise SourceError(str(error)) from None
        self._name = self.hello.name

    def _start(self, module: str) -> tuple[FileIO, subprocess.Popen[bytes]]:
        """The pipe's end to read from, and the process. Raises SourceError."""
        root = str(Path(__file__).resolve().parents[2])
        search = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        try:
            receive, pipe = os.pipe()
        except OSError as error:
            raise SourceError(f"{self._name}: cannot be captured: {error.strerror}") from None
        with contextlib.suppress(OSError):  # fewer hops a message; the default does, too
            fcntl.fcntl(receive, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        try:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", module, str(pipe)],
                pass_fds=(pipe,),
                env={**os.environ, "PYTHONPATH": search},
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        except OSError as error:
            os.close(receive)
            raise SourceError(f"{self._name}: no process can be started to capture it: {error.strerror}") from None
        finally:
            os.close(pipe)
        return FileIO(receive), process

    def _look(self) -> None:
        if self._called_off.is_set():
            raise SourceError(f"{self._name}: opening was called off")

    def _tell(self, line: bytes) -> None:
        """To the process, which says itself why it has gone, if it has."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write(line)
            self._process.stdin.flush()

    def _hello(self) -> Hello:
        """The first message, blocking. Raises SourceError."""
        deadline_s = time.monotonic() + HELLO_S

        def exactly(count: int) -> bytes:
            data = b""
            while len(data) < count:
                while not select.select([self._pipe], [], [], LOOK_S)[0]:
                    self._look()
                    if time.monotonic() > deadline_s:
                        raise SourceError(f"{self._name}: did not open within {HELLO_S:g} s")
                if not (more := self._pipe.read(count - len(data))):
                    raise SourceError(self._death())
                data += more
            return data

        kind, size = HEADER.unpack(exactly(HEADER.size))
        told = json.loads(exactly(size))
        if kind != b"I":
            raise SourceError(told["error"])
        return Hello(**told | {"size": tuple(told["size"])})

    async def items(self) -> AsyncGenerator[Item, None]:
        """What the device gives from now on. Raises SourceError when it ends."""
        self._tell(b"\n")
        reader = asyncio.StreamReader(limit=PIPE_BYTES)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), self._pipe)
        try:
            while True:
                kind, size = HEADER.unpack(await reader.readexactly(HEADER.size))
                payload = await reader.readexactly(size)
                if kind == b"E":
                    yield unpack_events(payload)
                elif kind == b"F":
                    yield unpack_frame(payload)
                elif kind == b"D":
                    self.dropped = json.loads(payload)
                else:
                    raise SourceError(json.loads(payload)["error"])
        except asyncio.IncompleteReadError:
            raise SourceError(await asyncio.to_thread(self._death)) from None
        finally:
            transport.close()

    def _death(self) -> str:
        """Why the process ended without saying so."""
        try:
            code = self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            return f"{self._name}: capturing ended"
        if code == -signal.SIGALRM:
            return f"{self._name}: has not answered for {STALL_S:g} s"
        ending = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return f"{self._name}: capturing ended with {ending}"

    def close(self) -> None:
        """Have the device released and the process end. Blocks for up to STOP_S."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        self._pipe.close()


async def opened(spec: CameraSpec) -> Capture:
    """Opened in a thread. Cancelled meanwhile, it calls that off, and closes what the thread may have opened.

    Raises SourceError.
    """
    called_off = threading.Event()
    opening = asyncio.ensure_future(asyncio.to_thread(Capture, spec, called_off=called_off))
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        called_off.set()
        with contextlib.suppress(SourceError):
            await asyncio.to_thread((await opening).close)
        raise
