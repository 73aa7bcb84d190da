"""One MQTT connection that keeps coming back, with birth, last will and farewell.

Why its parts are as they are:
- State (info, statuses, last captions) is kept as the newest message a topic and published again on every connect,
  because a broker that restarted may have lost it. The birth (`info`, then `status`) comes last: who sees it
  finds the rest.
- One message is in flight at a time, so captions arrive in order, also across a reconnect.
- A reader always runs: without one, a dead link is noticed only at the keepalive.
- What the broker refuses, or JSON cannot say, is lost, counted and told: sent again it would hold up all the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any

import aiomqtt
import structlog
from paho.mqtt.subscribeoptions import SubscribeOptions

from app.publishing import payloads, state_payloads, topics
from app.publishing.broker import Broker
from app.publishing.client import Client, RefusedError
from app.publishing.dialer import REPLY_S, V5, Dialer, Link, error_text
from app.publishing.encoding import decode, encode, properties
from app.publishing.outbox import Message, Outbox, Payload
from app.publishing.refusals import Refusals

_log = structlog.get_logger(__name__)
_FAREWELL_S = 1.4  # for the last words of a clean stop


class Connection:
    """Sends what `outbox` and the state hold, for as long as `run` runs. Used from one event loop."""

    def __init__(
        self,
        broker: Broker,
        outbox: Outbox,
        names: topics.Topics,
        node: str,
        session: str,
        *,
        link: Link,
        retain: bool,
    ) -> None:
        self.connected = asyncio.Event()
        self.on_command: Callable[[str, aiomqtt.Message], None] | None = None  # set before `run`; returns at once
        self._lost: str | None = None  # why there is no connection
        self._refusals = Refusals()
        self._outbox = outbox
        self._topics = names
        self._node = node
        self._session = session
        self._retain = retain
        identifier = f"ec-{session}"  # unique, and short enough for the strictest 3.1.1 broker (23 bytes)
        self._dialer = Dialer(broker, link, identifier, self._will)
        self._state: dict[str, Message] = {}  # the newest message of every state topic
        self._unsent: dict[str, None] = {}  # state topics that changed since they were sent, in order
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._stop = asyncio.Event()
        self._stop_reason: str | None = None

    @property
    def trouble(self) -> str | None:
        """Why there is no connection, or what the broker refuses; None also before the first try has failed."""
        return self._lost or self._refusals.text

    @property
    def connections(self) -> int:
        return self._dialer.connections

    @property
    def unsent(self) -> int:
        return len(self._outbox) + len(self._unsent) + self._in_flight

    def set_state(self, message: Message) -> None:
        """The newest message of its topic: sent soon, and again on every connect."""
        self._state[message.topic] = message
        self._unsent[message.topic] = None
        self._outbox.wake()

    def stop(self, reason: str | None) -> None:
        self._stop_reason = reason
        self._stop.set()
        self._outbox.wake()

    async def drain(self, timeout_s: float) -> int:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self.unsent:
                    self._idle.clear()
                    self._outbox.wake()
                    await self._idle.wait()
        return self.unsent

    async def run(self) -> None:
        started_s = time.monotonic()
        while not self._stop.is_set():
            try:
                await self._connect()
            except (aiomqtt.MqttError, OSError) as error:
                if self._dialer.try_other_protocol(error):
                    continue
                self._dialer.check_first_connection(error, started_s)
                delay_s = self._dialer.retry_s()
                self._lost = error_text(error)
                _log.warning(
                    "broker_lost", broker=str(self._dialer.broker), error=self._lost, retry_s=round(delay_s, 2)
                )
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), delay_s)

    async def _connect(self) -> None:
        """One connection, from birth to farewell; raises MqttError when it is lost."""
        client = self._dialer.client()
        try:
            async with client:
                self._dialer.opened()
                client.timeout = REPLY_S
                try:
                    await self._serve(client)
                finally:
                    self.connected.clear()
                    if self._stop.is_set() or asyncio.current_task().cancelling():  # type: ignore[union-attr]
                        await _to_its_end(asyncio.create_task(self._farewell(client)))
        finally:
            # aiomqtt leaves the socket open when the broker accepts a connection and then says nothing; paho's
            # disconnect closes it, and does nothing where it is closed.
            client._client.disconnect()

    async def _serve(self, client: Client) -> None:
        """Publish until stopped, with a reader beside; raises the first error of either."""
        tasks = [asyncio.create_task(self._read(client)), asyncio.create_task(self._send(client))]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, client: Client) -> None:
        """Watch our own status: a will that fires late must not leave a living node marked offline."""
        await self._listen(client, self._topics.status, qos=1)
        if self.on_command is not None:
            # MQTT 5: nothing retained is sent on subscribing, and what is retained later says so; nothing of our own.
            fresh = SubscribeOptions(qos=1, noLocal=True, retainAsPublished=True, retainHandling=2)
            v5 = {"options": fresh} if self._dialer.protocol is V5 else {"qos": 1}
            await self._listen(client, self._topics.commands, **v5)
        async for message in client.messages:
            if (name := self._topics.command(message.topic.value)) is not None:
                if self.on_command is not None:
                    self.on_command(name, message)
                continue
            status = decode(message.payload)
            if message.retain:
                continue  # from before our birth
            if status.get("state") in ("offline", "stopped"):
                self._unsent[self._topics.status] = None
                self._outbox.wake()
            elif status.get("session") != self._session:
                _log.warning("node_name_shared", node=self._node, other_session=status.get("session"))

    async def _listen(self, client: Client, topic: str, **options: Any) -> None:
        """Subscribe; a refusal is told, and costs what would have come."""
        what = f"the subscription to {topic}"
        try:
            await client.listen(topic, **options)
        except RefusedError as error:
            self._refusals.refused(what, str(error))
        else:
            self._refusals.accepted(what)

    async def _send(self, client: Client) -> None:
        birth = {self._topics.info: 1, self._topics.status: 2}
        self._unsent = dict.fromkeys(sorted(self._state, key=lambda topic: birth.get(topic, 0)))
        while not self._stop.is_set():
            if (topic := next(iter(self._unsent), None)) is not None:
                del self._unsent[topic]
                await self._send_state(client, topic)
                continue
            self._lost = None
            self.connected.set()  # the first time that all state is out, that was the birth
            if (message := self._outbox.take_nowait()) is not None:
                await self._send_queued(client, message)
            else:
                self._idle.set()
                await self._outbox.changed()

    async def _send_state(self, client: Client, topic: str) -> None:
        message = self._state[topic]
        if message.expiry_s is not None and message.age_s > message.expiry_s:
            return
        try:
            await self._deliver(client, message)
        except BaseException:
            self._unsent.setdefault(topic)
            raise

    async def _send_queued(self, client: Client, message: Message) -> None:
        try:
            delivered = await self._deliver(client, message)
        except BaseException:
            self._outbox.put_back(message)
            raise
        if not delivered:
            return
        self._outbox.acknowledge(message)
        if message.then is not None:
            self.set_state(message.then)

    async def _deliver(self, client: Client, message: Message) -> bool:
        """Whether the broker has it; if not, it is lost and counted. Raises MqttError when it may be sent again."""
        what = f"messages on {message.topic}"
        try:
            await self._publish(client, message)
        except RefusedError as error:
            self._refusals.refused(what, str(error))
            self._outbox.drop(message, "refused")
            return False
        except (ValueError, TypeError) as error:  # a bug of ours, which is to cost this message alone
            _log.error("message_invalid", topic=message.topic, error=str(error))
            self._outbox.drop(message, "invalid")
            return False
        self._refusals.accepted(what)
        return True

    async def _publish(self, client: Client, message: Message) -> None:
        """Send and await the acknowledgement. Raises RefusedError, MqttError, and what `encode` raises."""
        body = encode(self._as_sent(message))
        receipt = message.receipt
        receipt.sent_ns = receipt.sent_ns or time.monotonic_ns()
        receipt.attempts += 1
        self._in_flight += 1
        try:
            await client.deliver(
                message.topic,
                body,
                qos=message.delivery.qos,
                retain=message.delivery.retain and self._retain,
                properties=properties(message) if self._dialer.protocol is V5 else None,
            )
        finally:
            self._in_flight -= 1
        receipt.acked_ns = time.monotonic_ns()

    def _as_sent(self, message: Message) -> Payload | None:
        """The payload with what only the moment of sending knows."""
        payload = message.payload
        if payload is not None and "late" in payload:
            payload = payload | {"late": self._outbox.is_late(message)}
        if payload is not None and message.about is not None:
            zero_ns: int = payload["origin"]["monotonic_ns"]
            payload = payload | {"publish": payloads.publish_record(message.about, zero_ns)}
        return payload

    async def _farewell(self, client: Client) -> None:
        """Take back the last captions, then say that we stopped on purpose."""
        last = [m.topic for m in self._state.values() if m.delivery is topics.LAST_CAPTION and self._retain]
        status = state_payloads.status_payload(self._node, self._session, "stopped", self._stop_reason)
        messages = [Message(topic, None, topics.LAST_CAPTION) for topic in last]
        try:
            async with asyncio.timeout(_FAREWELL_S):
                for message in (*messages, Message(self._topics.status, status, topics.STATUS)):
                    with contextlib.suppress(RefusedError):
                        await self._publish(client, message)
        except (TimeoutError, aiomqtt.MqttError) as error:
            _log.warning("farewell_lost", broker=str(self._dialer.broker), error=error_text(error))

    def _will(self) -> aiomqtt.Will:
        status = state_payloads.status_payload(self._node, self._session, "offline", "connection lost")
        return aiomqtt.Will(self._topics.status, encode(status), topics.STATUS.qos, self._retain)


async def _to_its_end(task: asyncio.Task[None]) -> None:
    """Await a short task, also when we are cancelled meanwhile: half a farewell would leave `online` behind."""
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise
