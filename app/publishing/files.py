"""Captions as files: JSON lines, WebVTT or SubRip, by the file's suffix."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from app.publishing.errors import PublishError
from app.publishing.outbox import Payload

SUFFIXES = (".jsonl", ".vtt", ".srt")


class CaptionFile:
    """Writes caption payloads to `path` as they come. Subtitle times count from `start_us`, the
    recording's first instant.

    JSON lines are readable at once, line by line. Subtitles are written to `<path>.part`, which gets its name when the
    file is closed. What is complete survives an interruption; a run that fails before its first caption leaves no file.

    Raises PublishError when the suffix is none of SUFFIXES, or the file cannot be written.
    """

    def __init__(self, path: str | Path, start_us: int) -> None:
        self._path = Path(path)
        self._kind = self._path.suffix.lower()
        if self._kind not in SUFFIXES:
            raise PublishError(
                f"{self._path}: captions are written as {', '.join(SUFFIXES)}; give the file such a name"
            )
        if self._path.is_dir() or not os.access(self._path.parent, os.W_OK):
            raise PublishError(f"{self._path}: cannot be written; name a file in a folder that exists and is writable")
        self._start_us = start_us
        self._file: TextIO | None = None
        self._cues = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if error is None and self._file is None:
            self._file = self._open()  # a run without captions is an empty file, not a missing one
        self.close()

    def write(self, payload: Payload) -> None:
        """Add one caption/1 payload. Raises PublishError when the disk will not take it."""
        try:
            if self._file is None:
                self._file = self._open()
            self._cues += 1
            self._file.write(self._entry(payload))
            self._file.flush()
        except OSError as error:
            raise PublishError(f"{self._path}: cannot write a caption: {error.strerror}; free some space") from None

    def close(self) -> None:
        """Give the file its name; closing twice does nothing."""
        if self._file is not None and not self._file.closed:
            self._file.close()
            if self._part != self._path:
                os.replace(self._part, self._path)

    @property
    def _part(self) -> Path:
        return self._path if self._kind == ".jsonl" else self._path.with_name(self._path.name + ".part")

    def _open(self) -> TextIO:
        try:
            file = self._part.open("w", encoding="utf-8")
        except OSError as error:
            raise PublishError(f"{self._path}: cannot be written: {error.strerror}") from None
        if self._kind == ".vtt":
            file.write("WEBVTT\n\n")
        return file

    def _entry(self, payload: Payload) -> str:
        if self._kind == ".jsonl":
            return json.dumps(payload, ensure_ascii=False) + "\n"
        mark = "." if self._kind == ".vtt" else ","
        start, end = (_clock(payload["window"][key] - self._start_us, mark) for key in ("start_us", "end_us"))
        text = " ".join(payload["text"].split()) or "…"  # an empty line would end the cue
        if self._kind == ".vtt":
            text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        return f"{self._cues}\n{start} --> {end}\n{text}\n\n"


def _clock(t_us: int, mark: str) -> str:
    """hh:mm:ss and milliseconds; a window that begins before the recording does is shown from zero."""
    ms = max(0, t_us) // 1000
    return f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02}{mark}{ms % 1000:03}"
