"""Tells recordings apart by what is in them, not by their names."""

from __future__ import annotations

import os
from pathlib import Path

from app.sensors.aedat2 import Aedat2
from app.sensors.aedat3 import Aedat3
from app.sensors.contract import SourceError
from app.sensors.dsec import Dsec
from app.sensors.event_npy import EventNpy
from app.sensors.file_source import EventFile, FileSource
from app.sensors.file_source import describe as describe_file
from app.sensors.recording import Recording, RecordingInfo
from app.sensors.recording import describe as describe_aedat4

KNOWN = "AEDAT4, AEDAT 3.1, AEDAT 2.0, DSEC (HDF5) and EventGPT's .npy are read"


def open_source(
    path: str | Path,
    start_s: float = 0.0,
    duration_s: float | None = None,
    resolution: tuple[int, int] | None = None,
) -> Recording | FileSource:
    """The recording as a source. `resolution` (width, height) is for formats that do not tell it.

    Raises SourceError.
    """
    file = _open(Path(path), resolution)
    return Recording(path, start_s, duration_s) if file is None else FileSource(path, file, start_s, duration_s)


def describe(path: str | Path, resolution: tuple[int, int] | None = None) -> tuple[RecordingInfo, tuple[str, ...]]:
    """Read all of a recording, count what it holds, and say what a reader should know of it. Raises SourceError."""
    file = _open(Path(path), resolution)
    return (describe_aedat4(path), ()) if file is None else (describe_file(path, file), file.notes)


def _open(path: Path, resolution: tuple[int, int] | None) -> EventFile | None:
    """The file in the format that its first bytes tell; None for AEDAT4, which is read in another process."""
    if not path.is_file() or not os.access(path, os.R_OK):
        return None  # refused there
    with path.open("rb") as file:
        head = file.read(16)
    if head.startswith(b"#!AER-DAT4"):
        return None
    if head.startswith(b"#!AER-DAT3"):
        return Aedat3(path, resolution)
    if head.startswith(b"#"):
        return Aedat2(path, resolution)
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return Dsec(path, resolution)
    if head.startswith(b"\x93NUMPY") or (head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05"):
        return EventNpy(path, resolution)
    raise SourceError(f"{path}: not a recording; {KNOWN}" if head else f"{path}: empty; {KNOWN}")
