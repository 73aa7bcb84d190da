"""What takes captions from the pipeline: MQTT, files and traces; the summary; what a demo compares later."""

from __future__ import annotations

from typing import Protocol

from app.publishing.mqtt import Publisher
from app.publishing.outbox import Payload
from app.publishing.payloads import CaptionLog, Origin, caption_payload
from app.records import Caption, Dropped
from app.telemetry.summary import Summary
from app.telemetry.trace import TraceWriter
from app.windows import Window


class CaptionWriter(Protocol):
    """Takes caption/1 payloads: a caption file, or what stands beside a recording."""

    def write(self, payload: Payload) -> None: ...


class Outlet:
    """Hands captions of one camera to whichever outputs there are; the broker first, for it is what others wait for."""

    def __init__(
        self, origin: Origin, publisher: Publisher | None, captions: CaptionWriter | None, trace: TraceWriter | None
    ) -> None:
        self._origin, self._publisher, self._captions, self._trace = origin, publisher, captions, trace
        self._log = CaptionLog()  # counts where no publisher does

    def on_caption(self, caption: Caption) -> None:
        camera = self._origin.camera
        if self._publisher:
            payload = self._publisher.publish_caption(caption, camera)
        else:
            payload = caption_payload(caption, self._origin, self._log.caption(caption.text))
        if self._captions:
            self._captions.write(payload)
        if self._trace:
            self._trace.caption(caption, camera)

    def on_dropped(self, dropped: Dropped) -> None:
        self._log.dropped()
        if self._publisher:
            self._publisher.publish_dropped(dropped, self._origin.camera)
        if self._trace:
            self._trace.dropped(dropped, self._origin.camera)

    def on_draft(self, window: Window, text: str) -> None:
        if self._publisher:
            self._publisher.publish_draft(window, text, self._origin.camera)


class Counting:
    """Keeps the summary."""

    def __init__(self, summary: Summary) -> None:
        self._summary = summary

    def on_caption(self, caption: Caption) -> None:
        self._summary.add(caption)

    def on_dropped(self, dropped: Dropped) -> None:
        self._summary.drop(dropped)

    def on_draft(self, window: Window, text: str) -> None:
        """A draft that was not verified counts for nothing."""


class Remembering:
    """Keeps what was said of each window, to compare it with, and the first `limit` captions whole, for a picture."""

    def __init__(self, limit: int) -> None:
        self.said: dict[int, tuple[int, ...]] = {}  # token ids by window index
        self.captions: list[Caption] = []
        self._limit = limit

    def on_caption(self, caption: Caption) -> None:
        self.said[caption.window.index] = caption.token_ids
        if len(self.captions) < self._limit:
            self.captions.append(caption)

    def on_dropped(self, dropped: Dropped) -> None:
        """Nothing to compare."""

    def on_draft(self, window: Window, text: str) -> None:
        """Nothing to compare."""
