"""Opens a recording the way the command line asks for it."""

from __future__ import annotations

from pathlib import Path

from app.sensors.contract import RecordedSource, SourceError
from app.sensors.formats import open_source
from app.sensors.looping import Looped
from app.sensors.pacing import Paced


def open_recording(
    path: str | Path,
    *,
    start_s: float = 0.0,
    duration_s: float | None = None,
    speed: float | None = 1.0,
    loop: int = 1,
    rgb: str | Path | None = None,
    rgb_offset_ms: float = 0.0,
    reconstruct: bool = False,
    resolution: tuple[int, int] | None = None,
) -> RecordedSource:
    """Compose the recording with frames from elsewhere, looping (`loop` passes, 0 for ever) and pacing (None: max).

    The file's content tells the format; `resolution` (width, height) is for formats that do not tell it. Blocks for
    about half a second while AEDAT4's reader process starts, or while a file is looked through. Raises SourceError.
    """
    if rgb is not None and reconstruct:
        raise SourceError(f"{path}: give --rgb VIDEO or --frames reconstruct, not both")

    def once() -> RecordedSource:
        recording = open_source(path, start_s, duration_s, resolution)
        info = recording.info
        if not info.has_frames and rgb is None and not reconstruct:
            raise SourceError(
                f"{path}: has no frames, and the target needs them; "
                "give `--rgb VIDEO --rgb-offset-ms N`, or `--frames reconstruct` to render them from the events"
            )
        if reconstruct:
            if not info.has_events:
                raise SourceError(f"{path}: has no events to reconstruct frames from; leave --frames reconstruct out")
            from app.sensors.reconstruct import Reconstructed

            return Reconstructed(recording)
        if rgb is not None:
            from app.sensors.video import WithVideo

            return WithVideo(recording, rgb, rgb_offset_ms, recording.origin_us)
        return recording

    return Paced(once() if loop == 1 else Looped(once, loop), speed)
