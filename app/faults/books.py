"""The books of a fault run: what was committed, what the broker acknowledged, what a subscriber received.

What was committed and deleted is written down by triggers in the outbox's own database, in the same transactions: the
service does not know of it. In this run the outbox is given room and time enough to drop nothing, so that a deleted row
is one that the broker has acknowledged.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from app.publishing.store import SCHEMA

AUDIT = """
CREATE TABLE committed (number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT);
CREATE TABLE gone (id TEXT, at REAL);
CREATE TRIGGER commits AFTER INSERT ON messages BEGIN INSERT INTO committed (id) VALUES (new.id); END;
CREATE TRIGGER deletes AFTER DELETE ON messages BEGIN
    INSERT INTO gone VALUES (old.id, (julianday('now') - 2440587.5) * 86400.0); END;
"""
SLACK_S = 1.5  # around a broker's outage, within which what it acknowledged may be lost with it


def prepare(database: Path) -> None:
    """An empty outbox with triggers."""
    with sqlite3.connect(database) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.executescript(f"{SCHEMA};{AUDIT}")
    connection.close()


@dataclass
class Received:
    """A subscriber that comes back by itself, and what it heard."""

    port: int
    topic: str
    captions: list[tuple[str, str]] = field(default_factory=list)  # (id, text and window), in order of arrival
    status: dict[str, Any] = field(default_factory=dict)
    connected: bool = False
    outages: list[list[float]] = field(default_factory=list)  # wall time: [broker killed, subscriber back]

    def __post_init__(self) -> None:
        self._changed = threading.Condition()
        self._client = paho.Client(CallbackAPIVersion.VERSION2)
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.on_message = self._on_message
        self._client.reconnect_delay_set(1, 1)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="subscriber", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        """Much quicker to come back than the service: what it acknowledges meanwhile nobody would hear."""
        while not self._stop.is_set():
            try:
                self._client.connect("127.0.0.1", self.port, keepalive=10)
                while not self._stop.is_set() and self._client.loop(0.1) == paho.MQTT_ERR_SUCCESS:
                    pass
            except OSError:
                pass
            self._stop.wait(0.02)

    def _on_connect(self, client: paho.Client, data: Any, flags: Any, reason: Any, properties: Any) -> None:
        if not reason.is_failure:
            client.subscribe([(f"{self.topic}/camera/front/caption", 1), (f"{self.topic}/status", 1)])
            self.connected = True
            if self.outages and len(self.outages[-1]) == 1:
                self.outages[-1].append(time.time())

    def _on_disconnect(self, client: paho.Client, data: Any, flags: Any, reason: Any, properties: Any) -> None:
        self.connected = False

    def _on_message(self, client: paho.Client, data: Any, message: paho.MQTTMessage) -> None:
        payload = json.loads(message.payload)
        with self._changed:
            if message.topic.endswith("/caption"):
                self.captions.append((payload["id"], json.dumps([payload["text"], payload["window"]])))
            else:
                self.status = payload
            self._changed.notify_all()

    def broker_goes(self) -> None:
        """What it holds for the subscriber goes with it."""
        self.connected = False
        self.outages.append([time.time()])

    def until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Whether it came true in time."""
        with self._changed:
            return self._changed.wait_for(condition, timeout_s)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._client.disconnect()


def balance(database: Path, received: Received) -> dict[str, int]:
    """What became of every caption that was committed; the service has ended.

    `lost`: committed, and neither acknowledged nor received, or acknowledged by a broker that was up and yet not
    received. `lost_by_broker`: acknowledged around an outage of the broker, which took them along. `doubled_ids`: ids
    that two different captions carried. `out_of_order`: captions whose first arrival was before that of one committed
    earlier. `repeats`: captions that came again, the same under the same id.
    """
    with sqlite3.connect(database) as connection:
        committed = {id_: number for number, id_ in connection.execute("SELECT number, id FROM committed")}
        gone = dict(connection.execute("SELECT id, at FROM gone"))
    connection.close()
    first: dict[str, str] = {}
    doubled: set[str] = set()
    repeats = 0
    for id_, body in received.captions:
        if id_ not in first:
            first[id_] = body
        elif first[id_] == body:
            repeats += 1
        else:
            doubled.add(id_)
    order = [committed[id_] for id_ in first if id_ in committed]
    missing = [id_ for id_ in committed if id_ not in first]
    by_broker = [id_ for id_ in missing if id_ in gone and _around_outage(gone[id_], received.outages)]
    return {
        "committed": len(committed),
        "received": len(first),
        "repeats": repeats,
        "lost": len(missing) - len(by_broker),
        "doubled_ids": len(doubled),
        "out_of_order": sum(a > b for a, b in pairwise(order)),
        "lost_by_broker": len(by_broker),
    }


def _around_outage(at_s: float, outages: list[list[float]]) -> bool:
    return any(o[0] - SLACK_S <= at_s <= (o[1] if len(o) > 1 else at_s) + SLACK_S for o in outages)
