"""RGB frames from a video file beside a recording's events."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from app.sensors.contract import Events, Frame, Item, RecordedSource, SourceError, SourceInfo
from app.sensors.events import cut
from app.sensors.wrapping import Wrapper


class WithVideo(Wrapper):
    """Merges a video's frames, in time order, with a recording's events; the recording's own frames give way.

    The video's first frame belongs to sensor time `origin_us + offset_ms`; `origin_us` is the recording's first sensor
    time (not where a seek starts). Frames outside the recording are skipped.

    Raises SourceError when the video cannot be opened or holds no frame.
    """

    def __init__(self, source: RecordedSource, video_path: str | Path, offset_ms: float, origin_us: int) -> None:
        super().__init__(source)
        self._path = Path(video_path)
        if not self._path.is_file():
            raise SourceError(f"{video_path}: no such video; check the path given to --rgb")
        self._video = cv2.VideoCapture(str(video_path))
        if not self._video.isOpened() or not self._video.grab():
            raise SourceError(f"{video_path}: OpenCV cannot read it as a video; convert it, for example to MP4 (H.264)")
        self._fps = float(self._video.get(cv2.CAP_PROP_FPS)) or 30.0
        self._index = 0  # of the frame that is grabbed and not yet used
        self._zero_us = origin_us + round(offset_ms * 1000)
        self._shown = 0
        self._ended = False
        self._lock = threading.Lock()  # a read that was abandoned may still be at work when the video is closed
        self._closed = False

    @property
    def info(self) -> SourceInfo:
        return replace(self._source.info, has_frames=True)

    @property
    def notes(self) -> tuple[str, ...]:
        none = (f"{self._path}: no frame of it falls into the recording; check --rgb-offset-ms",)
        return (*self._source.notes, *(none if self._ended and not self._shown else ()))

    def _time_us(self) -> int:
        """Sensor time of the grabbed frame: the container's own time where it has one (variable frame rates)."""
        ms = float(self._video.get(cv2.CAP_PROP_POS_MSEC))
        if self._index and ms <= 0:
            ms = self._index * 1000 / self._fps
        return self._zero_us + round(ms * 1000)

    def _next(self, start_us: int, end_us: int) -> Frame | None:
        """The next frame of [start_us, end_us), or None; frames before are skipped without being decoded."""
        while True:
            with self._lock:
                if self._closed or (self._index and not self._video.grab()):
                    return None
                t_us = self._time_us()
                self._index += 1
                if t_us >= end_us:
                    return None
                if t_us < start_us:
                    continue
                ok, image = self._video.retrieve()
            if not ok:
                continue
            self._shown += 1
            return Frame(t_us, np.ascontiguousarray(image[:, :, ::-1]), time.monotonic_ns())

    async def __aiter__(self) -> AsyncIterator[Item]:
        start_us, end_us = self._source.info.start_us or 0, self._source.info.end_us or 2**62
        frame = await asyncio.to_thread(self._next, start_us, end_us)
        async for item in self._source:
            if not isinstance(item, Events):
                continue
            while frame is not None and frame.t_us <= item.t[-1]:
                before = cut(item, int(item.t[0]), frame.t_us)
                item = cut(item, frame.t_us, int(item.t[-1]) + 1)
                if len(before):
                    yield before
                yield frame
                frame = await asyncio.to_thread(self._next, frame.t_us + 1, end_us)
            yield item
        while frame is not None and self.ended_early is None:  # a still end of the recording still has its frames
            yield frame
            frame = await asyncio.to_thread(self._next, frame.t_us + 1, end_us)
        self._ended = True

    async def close(self) -> None:
        await super().close()
        self._closed = True
        await asyncio.to_thread(self._release)

    def _release(self) -> None:
        with self._lock:
            self._video.release()
