"""The publisher: what the application says to the world, as messages on one connection."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import aiomqtt

from app.publishing import payloads, state_payloads, topics
from app.publishing.broker import parse_url
from app.publishing.connection import Connection
from app.publishing.dialer import Link
from app.publishing.outbox import Message, Outbox, Payload, Receipt
from app.publishing.payloads import CaptionLog, Clock, Origin
from app.publishing.state_payloads import Scene, StreamStatus, Sync
from app.records import Caption, Dropped
from app.windows import Window


class Publisher:
    """Publishes captions, telemetry and state of one node. Everything but `run` and `drain` returns at once.

    `run` belongs in the caller's task group. `publish_draft` may be called from any thread, the rest from the event
    loop. A replay publishes under `replay-<node>` and retains nothing unless `retain` says so. `clock` is the sensor's
    against the wall, `status` the first one published. With the link's `connect_timeout_s`, `run` raises PublishError
    when no first connection comes about in that time; without, it tries for ever.

    Raises PublishError for a bad URL, name or certificate file, and for a password that would be sent in the clear.
    """

    def __init__(
        self,
        url: str,
        node: str,
        *,
        root: str = topics.DEFAULT_ROOT,
        replay: bool = False,
        retain: bool | None = None,
        status: str = "online",
        clock: Clock | None = None,
        drafts: bool = False,
        outbox: Outbox | None = None,
        link: Link | None = None,
        last_expiry_s: int = 60,
    ) -> None:
        topics.check_name("node", node)
        self.node = topics.replay_node(node) if replay else node
        self.topics = topics.Topics(self.node, root)
        self.replay = replay
        self.session = uuid.uuid4().hex[:12]
        self.outbox = Outbox() if outbox is None else outbox
        self._clock = clock or Clock("recording" if replay else "sensor")
        self.clock_of: Callable[[str], Clock] = lambda camera: self._clock  # a live camera's, at this moment
        self._drafts = drafts
        self._last_expiry_s = last_expiry_s
        self._logs: dict[str, CaptionLog] = {}
        self._newest_ns: dict[str, int] = {}  # when the newest captioned window closed, by camera
        self._connection = Connection(
            parse_url(url),
            self.outbox,
            self.topics,
            self.node,
            self.session,
            link=link or Link(),
            retain=not replay if retain is None else retain,
        )
        self.set_status(status)

    @property
    def connected(self) -> asyncio.Event:
        """Set while the broker has our birth."""
        return self._connection.connected

    @property
    def unsent(self) -> int:
        """Messages that no broker has acknowledged."""
        return self._connection.unsent

    async def run(self) -> None:
        """Connect, publish, reconnect; returns after `stop`. Cancelled while connected, it still says `stopped`."""
        await self._connection.run()

    async def drain(self, timeout_s: float) -> int:
        """Wait until everything was acknowledged, at most `timeout_s`; how many messages were not."""
        return await self._connection.drain(timeout_s)

    def stop(self, reason: str | None = None) -> None:
        """Let `run` clear the last captions, say `stopped` and return; what still waits is not sent: `drain` first."""
        self._connection.stop(reason)

    def origin(self, camera: str) -> Origin:
        name = topics.check_name("camera", camera)
        return Origin(self.node, name, self.session, self.clock_of(name), self.replay)

    def publish_caption(self, caption: Caption, camera: str) -> Payload:
        """Queue a caption, then its place as the newest one, and its telemetry; the payload is returned, for files."""
        origin = self.origin(camera)
        payload = payloads.caption_payload(caption, origin, self._log(camera).caption(caption.text))
        newest = None
        if caption.window.closed_ns >= self._newest_ns.get(camera, 0):
            self._newest_ns[camera] = caption.window.closed_ns
            topic = self.topics.last_caption(camera)
            newest = Message(topic, payload, topics.LAST_CAPTION, expiry_s=self._last_expiry_s)
        message = Message(self.topics.caption(camera), payload, topics.CAPTION, then=newest)
        self.outbox.put_nowait(message)
        self._put_telemetry(caption, origin, message.receipt)
        return payload

    def publish_dropped(self, dropped: Dropped, camera: str) -> None:
        """Count a window that was not captioned, and queue its telemetry."""
        self._log(camera).dropped()
        self._put_telemetry(dropped, self.origin(camera), None)

    def publish_draft(self, window: Window, text: str, camera: str) -> None:
        """Queue an unverified draft; does nothing unless drafts were asked for."""
        if self._drafts:
            payload = payloads.draft_payload(window, text, self.origin(camera))
            self.outbox.put_nowait(Message(self.topics.draft(camera), payload, topics.DRAFT))

    def set_status(self, state: str, reason: str | None = None) -> None:
        """`starting`, `online` or `degraded`; `stopped` and `offline` are said by `stop` and the last will."""
        payload = state_payloads.status_payload(self.node, self.session, state, reason)
        self._connection.set_state(Message(self.topics.status, payload, topics.STATUS))

    def set_info(
        self,
        *,
        version: str,
        models: Mapping[str, str | bool],
        runtimes: list[str],
        cameras: Mapping[str, Mapping[str, Any]],
        capabilities: list[str],
    ) -> None:
        """The birth certificate; see `state_payloads.info_payload`. Call it before `run`."""
        payload = state_payloads.info_payload(
            self.node,
            self.session,
            version=version,
            models=models,
            runtimes=runtimes,
            cameras=cameras,
            capabilities=capabilities,
            replay=self.replay,
        )
        self._connection.set_state(Message(self.topics.info, payload, topics.INFO))

    def set_camera_status(
        self, camera: str, streams: Mapping[str, StreamStatus], sync: Sync | None = None, scene: Scene | None = None
    ) -> None:
        """The state of a camera's `events` and `frames` streams, of the clocks of two devices, and of the gate."""
        payload = state_payloads.camera_status_payload(self.origin(camera), streams, sync, scene)
        self._connection.set_state(Message(self.topics.camera_status(camera), payload, topics.CAMERA_STATUS))

    @property
    def trouble(self) -> str | None:
        """Why there is no connection, or what the broker refuses on it; None also before the first try has failed."""
        return self._connection.trouble

    @property
    def connections(self) -> int:
        """How often a connection came about."""
        return self._connection.connections

    def on_command(self, take: Callable[[str, aiomqtt.Message], None]) -> None:
        """Subscribe to the commands and hand each on, with its name; `take` returns at once. Call it before `run`."""
        self._connection.on_command = take

    def publish_result(self, payload: Payload, correlation: bytes | None) -> None:
        """Queue the answer to a command."""
        topic = self.topics.result(payload["command"])
        self.outbox.put_nowait(Message(topic, payload, topics.RESULT, correlation=correlation))

    def _log(self, camera: str) -> CaptionLog:
        return self._logs.setdefault(camera, CaptionLog())

    def _put_telemetry(self, record: Caption | Dropped, origin: Origin, about: Receipt | None) -> None:
        payload = payloads.telemetry_payload(record, origin)
        self.outbox.put_nowait(Message(self.topics.telemetry(origin.camera), payload, topics.TELEMETRY, about=about))
