"""A message as bytes and MQTT 5 properties."""

from __future__ import annotations

import json
from typing import Any

from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from app.publishing.outbox import Message, Payload


def encode(payload: Payload | None) -> bytes:
    """JSON in UTF-8; nothing for None. Raises ValueError or TypeError for what JSON cannot say, such as a NaN."""
    if payload is None:
        return b""
    return json.dumps(payload, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode(errors="replace")


def decode(payload: Any) -> dict[str, Any]:
    """The JSON object in a payload that anybody may have sent; empty where there is none."""
    try:
        value = json.loads(payload)
    except (ValueError, TypeError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def properties(message: Message) -> Properties | None:
    """Of MQTT 5: content type, correlation data and what is left of the expiry."""
    if message.payload is None:
        return None
    made = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    made.ContentType = "application/json"
    if message.correlation is not None:
        made.CorrelationData = message.correlation
    if message.expiry_s is not None:
        made.MessageExpiryInterval = max(1, round(message.expiry_s - message.age_s))
    return made
