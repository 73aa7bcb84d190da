"""What waits for the broker: bounded in count and age, and never a reason for the captioning path to wait."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any, Protocol

from app.publishing.topics import CAPTION, Delivery

Payload = dict[str, Any]


@dataclass(slots=True)
class Receipt:
    """What became of a message, on the monotonic clock; filled in as it happens, for the telemetry."""

    queued_ns: int = field(default_factory=time.monotonic_ns)
    sent_ns: int | None = None  # first handed to the broker
    acked_ns: int | None = None  # acknowledged (QoS 0: written to the socket)
    attempts: int = 0
    dropped: str | None = None  # why it was lost: `full`, `expired`, `refused` by the broker, `invalid`: no JSON
    key: int | None = None  # its row in the store, while there is one


@dataclass(frozen=True, slots=True)
class Message:
    """One message; a payload of None empties a retained topic.

    `about` is the receipt of the caption that a telemetry record reports on; `then` becomes state once this message was
    acknowledged: a caption is the newest one only after it went out.
    """

    topic: str
    payload: Payload | None
    delivery: Delivery
    expiry_s: int | None = None  # MQTT 5 only
    receipt: Receipt = field(default_factory=Receipt)
    correlation: bytes | None = None  # of the command that this answers; MQTT 5 only
    about: Receipt | None = None
    then: Message | None = None

    @property
    def age_s(self) -> float:
        return (time.monotonic_ns() - self.receipt.queued_ns) / 1e9


class Keeper(Protocol):
    """Keeps captions beyond the process; see `store.Store`."""

    waiting: list[Message]

    def insert(self, message: Message) -> None: ...

    def delete(self, receipt: Receipt) -> None: ...


class Outbox:
    """First in, first out. Over `max_messages` the oldest goes (telemetry and drafts first, then answers, captions
    last), over `max_age_s` it expires; both are counted by reason in `dropped`. Any thread may put; one task on the
    event loop takes, and then either puts back or acknowledges. With a `store`, captions outlive the process, and those
    that an earlier one left come first.
    """

    def __init__(
        self,
        max_messages: int = 1000,
        max_age_s: float = 600.0,
        late_after_s: float = 2.0,
        store: Keeper | None = None,
    ) -> None:
        if max_messages < 1:
            raise ValueError(f"outbox: max_messages is {max_messages}; it must hold at least one")
        self.max_messages = max_messages
        self.max_age_s = max_age_s
        self.late_after_s = late_after_s
        self.dropped: Counter[str] = Counter()
        self._store = store
        self._messages: deque[Message] = deque(store.waiting if store else ())
        while len(self._messages) > max_messages:
            self._count(self._messages.popleft(), "full")
        self._lock = threading.Lock()
        self._changed = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def __len__(self) -> int:
        return len(self._messages)

    def put_nowait(self, message: Message) -> None:
        """Append; never blocks and never fails."""
        with self._lock:
            if self._store and message.delivery is CAPTION:
                self._store.insert(message)
            self._messages.append(message)
            if len(self._messages) > self.max_messages:
                self._drop_oldest()
        self.wake()

    def put_back(self, message: Message) -> None:
        """The message taken last could not be delivered: it is the next one again."""
        with self._lock:
            self._messages.appendleft(message)
            if len(self._messages) > self.max_messages:
                self._drop_oldest()

    def take_nowait(self) -> Message | None:
        """The oldest message that has not expired, or None."""
        with self._lock:
            while self._messages:
                message = self._messages.popleft()
                if message.age_s <= self.max_age_s:
                    return message
                self._count(message, "expired")
        return None

    def acknowledge(self, message: Message) -> None:
        """The broker has the message taken last."""
        if self._store:
            self._store.delete(message.receipt)

    def drop(self, message: Message, reason: str) -> None:
        """The message taken last, or one of state, is lost for good."""
        with self._lock:
            self._count(message, reason)

    def is_late(self, message: Message) -> bool:
        """Whether it waited longer than its age budget."""
        return message.age_s > self.late_after_s

    async def changed(self) -> None:
        """Wait until something was put, or `wake` was called, since the last call."""
        self._loop = asyncio.get_running_loop()
        await self._changed.wait()
        self._changed.clear()

    def wake(self) -> None:
        """End the wait of `changed`, from any thread."""
        loop = self._loop
        if loop is None or loop.is_closed():
            self._changed.set()  # nobody waits yet
        else:
            loop.call_soon_threadsafe(self._changed.set)

    def _drop_oldest(self) -> None:
        index = next((i for worth in (0, 1) for i, m in enumerate(self._messages) if _worth(m) == worth), 0)
        self._count(self._messages[index], "full")
        del self._messages[index]

    def _count(self, message: Message, reason: str) -> None:
        message.receipt.dropped = reason
        self.dropped[reason] += 1
        if self._store:
            self._store.delete(message.receipt)


def _worth(message: Message) -> int:
    """What goes first when there is no room: 0 before 1 before 2."""
    return 2 if message.delivery is CAPTION else int(message.delivery.qos > 0)
