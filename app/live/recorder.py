"""Recording on command: AEDAT4 of every camera's streams, by a child process each, and the captions beside it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import structlog

from app.publishing.commands import CommandError
from app.sensors.contract import Events, Frame, Item, SourceInfo
from app.sensors.protocol import pack
from app.service_config import RecordingConfig
from app.supervision.health import OK, Health

BUFFER = 64 << 20  # bytes that wait for a camera's child; what comes then is left out, and counted
END_S = 30.0  # a child's time to finish its file: what waits in its pipe is still to be written
JUMP_US = 1_000_000  # a stream whose time falls back by more has had its clock set
LOOK_S = 1.0  # between two looks at the disk

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Track:
    """One camera's file and its child."""

    path: Path
    process: asyncio.subprocess.Process
    captions: TextIO
    last_us: dict[str, int] = field(default_factory=dict)  # by stream
    frame_size: tuple[int, int] | None = None  # (height, width) of the first frame: a file takes no larger ones

    def takes(self, item: Item) -> bool:
        """False for what begins another file: a clock that was set back, or a camera of larger frames."""
        if isinstance(item, Frame):
            height, width, _ = item.image.shape
            self.frame_size = self.frame_size or (height, width)
            if height > self.frame_size[0] or width > self.frame_size[1]:
                return False
        stream, begin_us, _ = _span(item)
        return begin_us >= self.last_us.get(stream, begin_us) - JUMP_US

    def in_order(self, item: Item) -> bool:
        """Whether its time does not fall below what was written before; it is written now."""
        stream, begin_us, end_us = _span(item)
        if begin_us < self.last_us.get(stream, 0):
            return False
        self.last_us[stream] = end_us
        return True


class Recorder:
    """Writes while told to, within the disk budget. Methods run on the event loop; `item` and `write` return at once.

    Files are named by the wall clock and the camera, in `folder` and nowhere else: `20260101T120000Z-front.aedat4` and
    `….jsonl`; `…-front-2.…` where the camera's clock was set back or its frames became larger. Recording that ends by
    itself (budget, disk, a child that died) says why in the health.
    """

    def __init__(self, folder: Path, settings: RecordingConfig, health: Health) -> None:
        self.folder, self.left_out = folder, 0
        self._settings, self._health = settings, health
        self._infos: dict[str, SourceInfo] = {}
        self._tracks: dict[str, _Track] = {}
        self._past: list[_Track] = []  # that another file goes on from: their children are at an end, or soon
        self._files: list[str] = []
        self._stamp: str | None = None  # of the recording that runs
        self._opening: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._watcher: asyncio.Task[None] | None = None

    @property
    def recording(self) -> bool:
        return self._stamp is not None

    def start(self, seconds: float | None = None) -> dict[str, Any]:
        """Begin, for `seconds` or until told otherwise. Raises CommandError when it cannot."""
        if self.recording:
            raise CommandError("a recording runs already; stop it first")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            remedy = "name another in recording.folder or with --folder"
            raise CommandError(f"recording folder {self.folder}: cannot be made: {error.strerror}; {remedy}") from None
        if (full := self._full()) is not None:
            raise CommandError(full)
        self._stamp, self._files = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ"), []
        self._health.set("recorder", OK)
        limit_s = min(seconds or self._settings.max_s, self._settings.max_s)
        self._watcher = self._spawn(self._watch(time.monotonic() + limit_s))
        log.info("recording_started", folder=str(self.folder), name=self._stamp)
        return self.state()

    def state(self) -> dict[str, Any]:
        """`recording`, `files` (names in the folder) and `bytes` so far."""
        size = sum(_size(self.folder / name) for name in self._files)
        return {"recording": self.recording, "files": list(self._files), "bytes": size}

    async def stop(self, reason: str | None = None, patience_s: float = END_S) -> dict[str, Any]:
        """End the recording that runs, if any; `reason`: why it ends by itself. A child that has not
        finished in time is killed: the file then replays up to what was written."""
        self._stamp = None
        tracks, self._tracks, self._past = [*self._past, *self._tracks.values()], {}, []
        own = asyncio.current_task()
        if self._watcher is not None and self._watcher is not own:
            self._watcher.cancel()
        await asyncio.gather(*(self._finish(track, patience_s) for track in tracks))
        await asyncio.gather(*(self._tasks - {own}), return_exceptions=True)  # children that are being started
        if tracks:
            log.info("recording_ended", files=self._files, reason=reason)
        return self.state()

    def item(self, camera: str, info: SourceInfo, item: Item) -> None:
        """Record one item, if a recording runs."""
        if self._stamp is None:
            return
        track = self._tracks.get(camera)
        if track is None:
            if camera not in self._opening:
                self._opening.add(camera)
                self._spawn(self._open(camera, info, self._stamp))
            return
        pipe = track.process.stdin
        assert pipe is not None
        if pipe.is_closing():
            return
        if not track.takes(item):
            log.warning("recording_continued", camera=camera, after=track.path.name)
            pipe.close()
            self._past.append(self._tracks.pop(camera))
            self.item(camera, info, item)
            return
        if pipe.transport.get_write_buffer_size() > BUFFER or not track.in_order(item):
            self.left_out += len(item) if isinstance(item, Events) else 1
            return
        pipe.write(pack(item))

    def write(self, camera: str, payload: dict[str, Any]) -> None:
        """Put a caption beside the recording, if one runs."""
        if (track := self._tracks.get(camera)) is not None:
            try:
                track.captions.write(json.dumps(payload, ensure_ascii=False) + "\n")
                track.captions.flush()
            except OSError as error:
                self._end(f"captions cannot be written: {error.strerror}")

    async def _open(self, camera: str, info: SourceInfo, stamp: str) -> None:
        try:
            path = self.folder / f"{stamp}-{camera}.aedat4"
            number = 1
            while path.name in self._files:
                number += 1
                path = path.with_name(f"{stamp}-{camera}-{number}.aedat4")
            self._files += [path.name, path.with_suffix(".jsonl").name]
            root = str(Path(__file__).resolve().parents[2])
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "app.sensors.recorder", str(path), info.name),
                *map(str, info.resolution),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": root},
            )
            captions = path.with_suffix(".jsonl").open("w", encoding="utf-8")
            track = _Track(path, process, captions)
            if self._stamp != stamp:  # stopped meanwhile
                await self._finish(track, END_S)
                return
            self._tracks[camera] = track
        except OSError as error:
            self._end(f"{camera}: cannot be recorded: {error.strerror}")
        finally:
            self._opening.discard(camera)

    async def _finish(self, track: _Track, patience_s: float) -> None:
        with contextlib.suppress(OSError):  # a full disk does not take the rest; the child is ended in any case
            track.captions.close()
        pipe = track.process.stdin
        assert pipe is not None
        pipe.close()
        try:
            await asyncio.wait_for(track.process.wait(), patience_s)
        except TimeoutError:
            log.warning("recording_torn", file=str(track.path))
            track.process.kill()
            await track.process.wait()

    async def _watch(self, until_s: float) -> None:
        """End the recording when its time, its disk or a child is at an end."""
        while True:
            await asyncio.sleep(min(LOOK_S, max(0.0, until_s - time.monotonic())))
            dead = [track.path.name for track in self._tracks.values() if track.process.returncode is not None]
            full = await asyncio.to_thread(self._full)
            if full is not None:  # before what it makes fail
                await self._give_up(full)
                return
            if dead:
                await self._give_up(f"{dead[0]}: writing failed")
                return
            if time.monotonic() >= until_s:
                await self.stop("its time was over")
                return

    def _end(self, reason: str) -> None:
        self._spawn(self._give_up(reason))

    async def _give_up(self, reason: str) -> None:
        log.error("recording_failed", reason=reason)
        self._health.set("recorder", "stopped", reason)
        await self.stop(reason)

    def _full(self) -> str | None:
        """Why there is no room, or None."""
        try:
            held, free = sum(_size(path) for path in self.folder.iterdir()), shutil.disk_usage(self.folder).free
        except OSError as error:
            return f"the recording folder cannot be looked at: {error.strerror}"
        if held >= self._settings.max_gb * 1e9:
            return f"the recording folder holds {held / 1e9:.1f} GB of {self._settings.max_gb:g}: remove some"
        if free < self._settings.min_free_gb * 1e9:
            return f"the disk has {free / 1e9:.1f} GB left, recording.min_free_gb is {self._settings.min_free_gb:g}"
        return None

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _span(item: Item) -> tuple[str, int, int]:
    """Its stream, and its first and last sensor time."""
    if isinstance(item, Frame):
        return "frames", item.t_us, item.t_us
    return "events", int(item.t[0]), int(item.t[-1])


def _size(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.stat().st_size
    return 0
