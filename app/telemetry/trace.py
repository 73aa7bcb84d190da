"""Chrome/Perfetto trace files: one lane (thread) a model and one a sensor, on the monotonic clock.

The file is the JSON array form of the Trace Event Format, whose closing bracket is optional: what an interrupted run
leaves behind (`FILE.part`) still opens in chrome://tracing and ui.perfetto.dev.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from app.records import Caption, Dropped
from app.windows import Window

_MODEL_LANES = ("target", "drafter", "host")  # in this order, above the sensors


class TraceWriter:
    """Streams trace events to `path`; the name appears when the trace is closed. Raises OSError if it cannot."""

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._part = self._path.with_name(self._path.name + ".part")
        self._file: TextIO = self._part.open("w", encoding="utf-8")
        self._file.write("[\n")
        self._first = True
        self._windows = 0
        self._lanes: dict[str, int] = {}
        self._closed_ns: dict[str, int] = {}  # end of the newest window, by camera
        self._frames_ns: dict[str, int] = {}  # arrival of the newest frame written, by camera
        self._event({"name": "process_name", "ph": "M", "args": {"name": "event-captioner"}}, tid=0)
        for lane in _MODEL_LANES:
            self._lane(lane)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if error is not None and not self._windows:
            self._file.close()
            self._part.unlink(missing_ok=True)  # failed before there was anything to trace
        self.close()

    def caption(self, caption: Caption, camera: str) -> None:
        """The window on the sensor's lanes and every span on its own."""
        self._window(caption.window, camera, {"text": caption.text})
        for span in caption.spans:
            detail = {"window": caption.window.index, **span.detail}
            self._complete(span.name, self._lane(span.lane), span.start_ns, span.end_ns, detail)
        self._file.flush()

    def dropped(self, dropped: Dropped, camera: str) -> None:
        """The window on the sensor's lanes, marked with the reason it was not captioned."""
        self._window(dropped.window, camera, {"dropped": dropped.reason})
        instant = {"name": f"dropped: {dropped.reason}", "ph": "i", "s": "t", "ts": _us(dropped.window.closed_ns)}
        self._event(instant, tid=self._lane(f"{camera} events"))
        self._file.flush()

    def close(self) -> None:
        """End the array and give the file its name; closing twice does nothing."""
        if self._file.closed:
            return
        self._file.write("\n]\n")
        self._file.close()
        os.replace(self._part, self._path)

    def _window(self, window: Window, camera: str, extra: dict[str, str]) -> None:
        self._windows += 1
        # Overlapping windows would not nest in one lane: each is drawn from the previous one's end.
        opened_ns = window.closed_ns - (window.end_us - window.start_us) * 1000
        opened_ns = min(max(opened_ns, self._closed_ns.get(camera, opened_ns)), window.closed_ns)
        self._closed_ns[camera] = max(window.closed_ns, self._closed_ns.get(camera, 0))
        detail: dict[str, int | float | str] = {
            "start_us": window.start_us,
            "end_us": window.end_us,
            "events": len(window.events),
            **extra,
        }
        lane = self._lane(f"{camera} events")
        self._complete(f"window {window.index}", lane, opened_ns, window.closed_ns, detail)
        counter = {"name": f"{camera} events per window", "ph": "C", "ts": _us(window.closed_ns)}
        self._event(counter | {"args": {"events": len(window.events)}}, tid=lane)
        self._frames(window, camera)

    def _frames(self, window: Window, camera: str) -> None:
        """An instant where each frame arrived; a frame that two overlapping windows share is written once."""
        lane = self._lane(f"{camera} frames")
        newest = self._frames_ns.get(camera, 0)
        frames = {f.arrived_ns: f for f in (*(w.frame for w in window.frames), *window.unused_frames)}
        for arrived_ns in sorted(ns for ns in frames if ns > newest):
            args = {"t_us": frames[arrived_ns].t_us}
            self._event({"name": "frame", "ph": "i", "s": "t", "ts": _us(arrived_ns), "args": args}, tid=lane)
            self._frames_ns[camera] = arrived_ns

    def _lane(self, name: str) -> int:
        if name not in self._lanes:
            tid = self._lanes[name] = len(self._lanes) + 1
            self._event({"name": "thread_name", "ph": "M", "args": {"name": name}}, tid=tid)
            self._event({"name": "thread_sort_index", "ph": "M", "args": {"sort_index": tid}}, tid=tid)
        return self._lanes[name]

    def _complete(self, name: str, tid: int, start_ns: int, end_ns: int, args: dict[str, int | float | str]) -> None:
        event = {"name": name, "ph": "X", "ts": _us(start_ns), "dur": _us(end_ns - start_ns), "args": args}
        self._event(event, tid)

    def _event(self, event: dict[str, object], tid: int) -> None:
        separator = "" if self._first else ",\n"
        self._first = False
        self._file.write(separator + json.dumps({"pid": 1, "tid": tid, **event}, ensure_ascii=False))


def _us(ns: int) -> float:
    return ns / 1000  # the format's unit; fractions are allowed
