"""A dv network stream, of events or of frames, as DV and dv-processing serve it. Runs in the capture process."""

from __future__ import annotations

import socket
import time

import dv_processing as dv

from app.sensors.contract import Events, SourceError
from app.sensors.dv_data import events_of, reason_of
from app.sensors.inivation import IDLE_S, raw_frame
from app.sensors.merging import RawFrame
from app.sensors.spec import EventCameraSpec, RgbCameraSpec
from app.sensors.throttle import Throttle
from app.sensors.view import EventView, FrameView

CONNECT_S = 3.0
NEXT_FRAME_S = 10.0  # a camera always has frames; events, a still scene has none


class NetworkStream:
    """One stream from host:port; one port serves one stream. Items carry the clock of the camera that is served."""

    def __init__(self, spec: EventCameraSpec | RgbCameraSpec) -> None:
        address = spec.network or ""
        host, _, port = address.rpartition(":")
        self._address = spec.name
        try:  # dv-processing waits very long for a host that is not there
            with socket.create_connection((host.strip("[]"), int(port)), CONNECT_S) as connection:
                host = str(connection.getpeername()[0])  # it takes no names, and not every address of one may answer
        except OSError as error:
            raise SourceError(
                f"{self._address}: {error.strerror or error}; is it served there, and is the port right?"
            ) from None
        try:
            self._reader = dv.io.NetworkReader(host, int(port))
            stream = self._reader.getStreamDefinition()
        except RuntimeError as error:
            raise SourceError(f"{self._address}: not a dv network stream: {reason_of(error)}") from error
        self.has_events = bool(self._reader.isEventStreamAvailable())
        self.has_frames = bool(self._reader.isFrameStreamAvailable())
        wanted = "events" if isinstance(spec, EventCameraSpec) else "frames"
        if not (self.has_events if wanted == "events" else self.has_frames):
            raise SourceError(f"{self._address}: serves {stream.mName or stream.mTypeIdentifier!r}, not {wanted}")
        self.name = self.clock = str(self._reader.getCameraName())
        resolution = stream.getResolution()
        if resolution is None:
            raise SourceError(f"{self._address}: does not tell its resolution")
        size = int(resolution[0]), int(resolution[1])
        if isinstance(spec, EventCameraSpec):
            self._view: EventView | None = EventView(self._address, size, spec.view)
            self.size = self._view.size
        else:
            self._view, self.size = None, size
            self._throttle = Throttle(spec.fps)
            self._last_s = time.monotonic()
            self._frame_view = FrameView(
                self._address, size, spec.view, spec.max_side, spec.homography, spec.event_size
            )

    def read(self) -> list[Events | RawFrame]:
        items: list[Events | RawFrame] = []
        try:
            if self._view is not None:
                if (store := self._reader.getNextEventBatch()) is not None and len(store):
                    items.append(self._view(events_of(store)))
            elif (frame := self._reader.getNextFrame()) is not None:
                if self._throttle.passes(int(frame.timestamp) * 1000):
                    items += raw_frame(frame, self._frame_view)
                self._last_s = time.monotonic()
            elif time.monotonic() - self._last_s > NEXT_FRAME_S:
                raise SourceError(f"{self._address}: no frame for {NEXT_FRAME_S:g} s")
            if not items and not self._reader.isRunning():
                raise SourceError(f"{self._address}: connection lost")
        except RuntimeError as error:
            raise SourceError(f"{self._address}: {reason_of(error)}") from error
        if not items:
            time.sleep(IDLE_S)
        return items

    def close(self) -> None:
        del self._reader
