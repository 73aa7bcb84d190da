"""aiomqtt's client, made to tell what a broker refuses."""

from __future__ import annotations

from typing import Any

import aiomqtt
import paho.mqtt.client as paho
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode


class RefusedError(aiomqtt.MqttError):
    """The broker answered, and the answer was no: one message or subscription is lost, the connection is not."""


class Client(aiomqtt.Client):
    """aiomqtt passes over the reason in a PUBACK and a SUBACK; `deliver` and `listen` raise it.

    Only MQTT 5 has reasons for a PUBACK: a broker that speaks 3.1.1 refuses by silence or by closing the connection.
    """

    _answer: ReasonCode | None = None  # the newest PUBACK's; one message is in flight at a time

    async def deliver(
        self, topic: str, payload: bytes, *, qos: int, retain: bool, properties: Properties | None
    ) -> None:
        """Publish and await the acknowledgement. Raises RefusedError, and MqttError when the connection is lost."""
        self._answer = None
        await self.publish(topic, payload, qos=qos, retain=retain, properties=properties)
        if self._answer is not None and self._answer.is_failure:
            raise RefusedError(str(self._answer))

    async def listen(self, topic: str, **options: Any) -> None:
        """Subscribe. Raises RefusedError, and MqttError when the connection is lost."""
        for answer in await self.subscribe(topic, **options):
            if isinstance(answer, ReasonCode) and answer.is_failure:
                raise RefusedError(str(answer))

    def _on_publish(
        self, client: paho.Client, userdata: Any, mid: int, reason_code: ReasonCode, properties: Properties
    ) -> None:
        self._answer = reason_code
        super()._on_publish(client, userdata, mid, reason_code, properties)
