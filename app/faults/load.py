"""The load run: more windows than captions, for as long as one likes, and what becomes of them and of memory."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import paho.mqtt.client as paho
import psutil
import yaml
from paho.mqtt.enums import CallbackAPIVersion

from app.config import Config
from app.faults.processes import Child, Mosquitto, Street, with_windows_of
from app.faults.rounds import FaultRunError

NODE = "load-run"
READY_S = 180.0  # for the models, on a busy machine
STOP_S = 15.0
LONGEST_MS = 60_000  # of a window, as the configuration has it
SLACK_MS = 5.0  # between the last token and the look at the clock that decides
MOST_GROWTH, MOST_UNFAIR = 0.05, 0.10


@dataclass(frozen=True, slots=True)
class LoadSettings:
    """What a run is put under. `windows_per_s` is of all cameras together; 0 captions a second: as many as it makes."""

    seconds: float
    cameras: int = 2
    windows_per_s: float = 10.0
    captions_per_s: float = 3.0
    events_per_s: int = 100_000  # of each camera
    network: bool = False  # the demo street over dv network streams instead: its events, this machine's wall clock


@dataclass
class _Heard:
    """What a subscriber was told."""

    captions: int = 0
    over_age: int = 0  # older than the budget when they were made, and not `late`
    ages_ms: list[float] = field(default_factory=list)  # from the window's end until they were here, at most 100,000

    def take(self, payload: dict[str, Any], max_age_s: float, now_us: int) -> None:
        """`now_us`: on the clock of the sensor."""
        self.captions += 1
        made_ms = payload["latency_ms"]["sensor_to_caption"] + payload["window"]["lag_ms"]
        self.over_age += made_ms > max_age_s * 1000 + SLACK_MS and not payload["late"]
        if len(self.ages_ms) < 100_000:
            self.ages_ms.append((now_us - payload["window"]["end_us"]) / 1000)


class LoadRun:
    """Everything of one run, in `folder`. Raises FaultRunError for windows that are longer than may be configured."""

    def __init__(self, config: Config, folder: Path, settings: LoadSettings) -> None:
        self._settings = settings
        self._broker = Mosquitto(folder)
        self._streets: list[Street] = []
        if settings.network:
            self._streets = [Street(folder, number, settings.seconds) for number in range(settings.cameras)]
        self._clock_ns = time.time_ns if settings.network else time.monotonic_ns
        self._books, path = folder / "books.json", folder / "service.yaml"
        self._max_age_s = config.service.max_age_s
        path.write_text(yaml.safe_dump(self._configured(config, folder)))
        command = [sys.executable, "-P", "-m", "app.faults.load_service", str(path), str(self._books)]
        command += [str(settings.events_per_s), str(settings.captions_per_s)]
        self._log = folder / "service.log"
        self._service = Child(command, self._log)
        self._heard: dict[str, _Heard] = defaultdict(_Heard)
        self._online = threading.Event()

    def _configured(self, config: Config, folder: Path) -> dict[str, Any]:
        length_ms = max(10, round(1000 * self._settings.cameras / self._settings.windows_per_s))
        if length_ms > LONGEST_MS:
            raise FaultRunError(
                f"load-run: windows of {length_ms / 1000:g} s, of each of {self._settings.cameras} cameras, are longer "
                f"than {LONGEST_MS / 1000:g} s; raise --windows-per-s"
            )
        data = with_windows_of(config, length_ms)
        data["node"] = NODE
        data["cameras"] = {f"camera{number}": {} for number in range(self._settings.cameras)}
        for camera, street in zip(data["cameras"].values(), self._streets, strict=False):
            camera |= street.camera()
        data["mqtt"] |= {"enabled": True, "url": f"mqtt://127.0.0.1:{self._broker.port}"}
        data["mqtt"] |= {"outbox_file": str(folder / "outbox.db")}
        data["service"] |= {"port": None}
        return data

    def run(self, tell: Callable[[str], None]) -> dict[str, Any]:
        """The findings. Raises FaultRunError when the service does not come up, or does not stay."""
        client = paho.Client(CallbackAPIVersion.VERSION2)
        try:
            self._broker.serve()
            self._subscribe(client)
            if self._streets:
                tell("drawing the street …")
            for street in self._streets:
                street.serve()
            tell("loading the models …")
            self._service.start()
            until_s = time.monotonic() + READY_S
            while not self._online.wait(0.2):
                if self._service.dead or time.monotonic() > until_s:
                    raise FaultRunError(f"load-run: the service did not come up; see {self._log}")
            resident = self._watch(tell)
            self._service.end(signal.SIGTERM, STOP_S)
            time.sleep(0.5)  # for what the broker still has in hand
        finally:
            for child in (self._service, *self._streets, self._broker):
                if not child.dead:
                    child.kill()
            client.loop_stop()
            client.disconnect()
        if not self._books.exists():
            raise FaultRunError(f"load-run: the service left no books; see {self._log}")
        return self._findings(resident)

    def _subscribe(self, client: paho.Client) -> None:
        def on_message(_: object, data: object, message: paho.MQTTMessage) -> None:
            payload = json.loads(message.payload)
            if message.topic.endswith("/caption"):
                self._heard[payload["camera"]].take(payload, self._max_age_s, self._clock_ns() // 1000)
            elif payload["state"] in ("online", "degraded"):
                self._online.set()

        client.on_message = on_message
        client.connect("127.0.0.1", self._broker.port)
        client.subscribe([(f"event-captioner/{NODE}/camera/+/caption", 1), (f"event-captioner/{NODE}/status", 1)])
        client.loop_start()

    def _watch(self, tell: Callable[[str], None]) -> list[int]:
        """Resident bytes of the service, once a second for as long as the run goes on."""
        resident: list[int] = []
        process, until_s = psutil.Process(self._service.pid), time.monotonic() + self._settings.seconds
        while (left_s := until_s - time.monotonic()) > 0:
            if self._service.dead:
                raise FaultRunError(f"load-run: the service ended by itself; see {self._log}")
            resident.append(process.memory_info().rss)
            captions = sum(heard.captions for heard in self._heard.values())
            tell(f"{left_s:.0f} s to go, {captions} captions, {resident[-1] / 2**20:.0f} MiB")
            time.sleep(min(1.0, left_s))
        return resident

    def _findings(self, resident: list[int]) -> dict[str, Any]:
        books = json.loads(self._books.read_text())
        cameras: dict[str, dict[str, Any]] = books["cameras"]
        dropped: dict[str, int] = defaultdict(int)
        for counts in cameras.values():
            for reason, count in counts["dropped"].items():
                dropped[reason] += count
        arrived, captioned = (sum(c[key] for c in cameras.values()) for key in ("arrived", "captioned"))
        each = [c["captioned"] for c in cameras.values()]
        ages = [age for heard in self._heard.values() for age in heard.ages_ms]
        return {
            "seconds": self._settings.seconds,
            "arrived": arrived,
            "captioned": captioned,
            "received": sum(heard.captions for heard in self._heard.values()),
            "dropped": dict(sorted(dropped.items())),
            "unaccounted": arrived - captioned - sum(dropped.values()),
            "over_age": sum(heard.over_age for heard in self._heard.values()),
            "sensor_to_publish_ms": _spread(ages),
            "by_camera": {name: c["captioned"] for name, c in cameras.items()},
            "unfair": round(1 - min(each) / max(each), 3) if max(each) else 0.0,
            "memory_mib": round(max(resident) / 2**20),
            "memory_growth": round(_growth(resident), 3),
            "events_per_s": round(books["events"] / self._settings.seconds),
            **{key: books[key] for key in ("events_left_out", "events_over_limit", "late_events")},
            **books["loop"],
        }


def failures(found: dict[str, Any]) -> list[str]:
    """The findings that are not as they must be."""
    wrong = [key for key in ("unaccounted", "over_age") if found[key]]
    wrong += ["memory_growth"] if found["memory_growth"] > MOST_GROWTH else []
    return wrong + (["unfair"] if found["unfair"] > MOST_UNFAIR else [])


def _spread(ms: list[float]) -> dict[str, int]:
    """Median, 95th of a hundred, and the most; nothing of nothing."""
    if not ms:
        return {}
    p50, p95 = np.percentile(ms, (50, 95))
    return {"p50": round(p50), "p95": round(p95), "max": round(max(ms))}


def _growth(resident: list[int]) -> float:
    """Of resident memory from after the first minute (of a short run: its first half) to the end."""
    begin = min(60, len(resident) // 2)
    tenth = max(1, len(resident) // 10)
    return float(np.median(resident[-tenth:]) / np.median(resident[begin : begin + tenth]) - 1)
