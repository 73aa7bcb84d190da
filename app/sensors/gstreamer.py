"""GStreamer pipelines, through a `gst-launch-1.0` of our own. Runs in the capture process.

OpenCV's wheels have no GStreamer, and a Jetson's CSI cameras have nothing else. Raw frames come through a pipe.
"""

from __future__ import annotations

import os
import select
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from functools import partial

import numpy as np

from app.children import signalled_at_orphaning
from app.sensors.contract import Events, SourceError
from app.sensors.device import HOST_CLOCK
from app.sensors.merging import RawFrame
from app.sensors.spec import RgbCameraSpec
from app.sensors.throttle import Throttle
from app.sensors.view import FrameView

LAUNCH = "gst-launch-1.0"
FIRST_FRAME_S, NEXT_FRAME_S = 10.0, 10.0
STOP_S = 0.5  # less than the capture process has for it
MOST_OUTPUT = 4096  # of what gst-launch says that is looked through
MOST_SAID = 1 << 20  # bytes of it that are kept: a pipeline may complain of every frame


def command(pipeline: str, width: int, height: int, fd: int) -> list[str]:
    """The whole pipeline: what the user gave, then RGB of the wanted size into a pipe, the newest frame first."""
    caps = f"video/x-raw,format=RGB,width={width},height={height}"
    tail = (
        f"! videoconvert ! videoscale ! {caps} ! queue max-size-buffers=2 leaky=downstream ! fdsink fd={fd} sync=false"
    )
    return [LAUNCH, "-q", *shlex.split(pipeline), *tail.split()]


class GStreamerCamera:
    """The frames of a pipeline, stamped when they have come through the pipe. `width` and `height` must be given."""

    clock = HOST_CLOCK
    has_events = False
    has_frames = True

    def __init__(self, spec: RgbCameraSpec) -> None:
        assert spec.gstreamer
        assert spec.width
        assert spec.height
        self.name = spec.name
        if shutil.which(LAUNCH) is None:
            raise SourceError(f"{self.name}: there is no {LAUNCH}; sudo apt install gstreamer1.0-tools")
        width, height = spec.width, spec.height
        self._view = FrameView(self.name, (width, height), spec.view, spec.max_side, spec.homography, spec.event_size)
        viewed = self._view(np.zeros((height, width, 3), np.uint8))
        self.size = viewed.shape[1], viewed.shape[0]
        self._shape = height, width
        self._stride = (width * 3 + 3) // 4 * 4  # GStreamer pads rows to four bytes
        self._throttle = Throttle(spec.fps)
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the camera)
        self._pipe, send = os.pipe()
        try:
            self._process = subprocess.Popen(
                command(spec.gstreamer, width, height, send),
                pass_fds=(send,),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._said,
                preexec_fn=partial(signalled_at_orphaning, signal.SIGKILL),
            )
        finally:
            os.close(send)
        try:
            self._frame(FIRST_FRAME_S)  # what is wrong with a pipeline shows before its first frame
        except SourceError:
            self.close()
            raise

    def read(self) -> list[Events | RawFrame]:
        data = self._frame(NEXT_FRAME_S)
        now_ns = time.monotonic_ns()
        if not self._throttle.passes(now_ns):
            return []
        height, width = self._shape
        rows = np.frombuffer(data, np.uint8).reshape(height, self._stride)
        return [RawFrame(now_ns // 1000, self._view(rows[:, : width * 3].reshape(height, width, 3)))]

    def _frame(self, timeout_s: float) -> bytearray:
        """The bytes of one frame. Raises SourceError when none comes in time, or the pipeline ends."""
        data = bytearray(self._shape[0] * self._stride)
        view, filled, deadline_s = memoryview(data), 0, time.monotonic() + timeout_s
        while filled < len(data):
            if not select.select([self._pipe], [], [], max(0.0, deadline_s - time.monotonic()))[0]:
                raise SourceError(f"{self.name}: no frame for {timeout_s:g} s{self._told()}")
            count = os.readv(self._pipe, [view[filled:]])
            if not count:
                code = self._process.wait()
                raise SourceError(f"{self.name}: ended with exit code {code}{self._told() or ': no more frames'}")
            filled += count
        self._forget()
        return data

    def _forget(self) -> None:
        """Begin anew with what gst-launch says once there is much of it: it still gives frames."""
        said = self._said.fileno()
        if os.fstat(said).st_size > MOST_SAID:
            os.lseek(said, 0, os.SEEK_SET)  # gst-launch writes where we stand: the file is one
            os.ftruncate(said, 0)

    def _told(self) -> str:
        """The first thing that gst-launch complained of."""
        lines = os.pread(self._said.fileno(), MOST_OUTPUT, 0).decode(errors="replace").splitlines()
        told = [line.partition(": ")[2] for line in lines if line.startswith(("ERROR: ", "WARNING: "))]
        detail = next((line for line in lines if line.startswith("No such")), "")
        return f": {'; '.join(filter(None, (told[0], detail)))}" if told else ""

    def close(self) -> None:
        """End the pipeline by its own id; a pipeline that holds a camera gets a moment to let go of it."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()
        os.close(self._pipe)
        self._said.close()
