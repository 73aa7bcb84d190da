"""What the capture process reads from, whatever is behind it."""

from __future__ import annotations

from typing import Protocol

from app.sensors.contract import Events
from app.sensors.merging import RawFrame
from app.sensors.spec import Size

HOST_CLOCK = "host"  # frames are stamped with the monotonic clock of this machine when they are grabbed


class Device(Protocol):
    """One opened device. Its constructor raises SourceError for what cannot be opened."""

    name: str
    clock: str  # whose time its items carry: two devices of one clock say the same
    size: Size  # of the events, or of the frames where there are none
    has_events: bool
    has_frames: bool

    def read(self) -> list[Events | RawFrame]:
        """What has come since, waiting a millisecond, or for a frame. Raises SourceError when it is gone."""

    def close(self) -> None:
        """Release it; in the thread that reads."""
