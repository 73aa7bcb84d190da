"""The rounds: each breaks one thing, lets it be broken for a while, mends it, and waits until captions flow again."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from app.config import Config
from app.faults.books import Received, balance, prepare
from app.faults.processes import Child, Mosquitto, feed, service, with_windows_of
from app.faults.relay import Relay

NODE = "faults"
FLOWING_S = 120.0  # until captions flow again; models may have to be loaded
OFFLINE_S = 2.0  # within which the world knows of a death
KEEPALIVE_S = 6  # within 1.5 times of which it knows of a silent link
STOP_S = 5.0
EXECUTOR = 8  # threads that asyncio keeps for blocking calls: they come when needed, and stay

MUST_NOT_BE = ("lost", "doubled_ids", "out_of_order", "leaks", "late_offline", "slow_stop")

Tell = Callable[[str], None]


class FaultRunError(Exception):
    """The service did not come back."""


@dataclass
class Findings:
    """What only a watcher of the processes can count."""

    faults: Counter[str] = field(default_factory=Counter)
    leaks: int = 0  # process lives that ended with more threads or file descriptors than they had when warm
    late_offline: int = 0  # deaths not heard of within two seconds, silent links not within 1.5 keepalives
    slow_stop: bool = False


class FaultRun:
    """Everything of one run, in `folder`."""

    def __init__(self, config: Config, folder: Path, seed: int) -> None:
        self._chance = random.Random(seed)
        self._database = folder / "outbox.db"
        self._broker = Mosquitto(folder)
        self._wire = Relay(self._broker.port)
        self._feed, feed_port = feed(folder)
        path = folder / "service.yaml"
        path.write_text(yaml.safe_dump(_configured(config, self._wire.port, self._database)))
        self._service = service(folder, path, feed_port)
        self._log = folder / "service.log"
        self._warm: tuple[int, int] | None = None  # what this life of the service held when warm
        self.findings = Findings()
        self.faults: dict[str, Callable[[], None]] = {
            "broker_killed": self._broker_killed,
            "broker_refusing": self._broker_refusing,
            "source_frozen": self._source_frozen,
            "source_killed": self._source_killed,
            "rgb_gone": self._rgb_gone,
            "worker_raising": self._worker_raising,
            "process_killed": self._process_killed,
            "link_silent": self._link_silent,
        }

    def run(self, rounds: int, tell: Tell) -> dict[str, Any]:
        """So many rounds, each fault as often as the others; the findings. Raises FaultRunError."""
        prepare(self._database)
        began = time.monotonic()
        children: list[Child] = [self._service, self._feed, self._broker]
        self.received = Received(self._broker.port, f"event-captioner/{NODE}")
        try:
            self._broker.serve()
            self._feed.start()
            self._service.start()
            tell("loading the models …")
            self._flowing()
            for number, name in enumerate(self._order(rounds), start=1):
                tell(f"{time.monotonic() - began:5.0f} s  round {number}/{rounds}: {name}")
                self._warm = self._warm or self._holds()
                self.faults[name]()
                self.findings.faults[name] += 1
                self._flowing()
            self._check_leaks()
            self.findings.slow_stop = self._service.end(signal.SIGTERM, 10.0) > STOP_S
            self.received.until(lambda: self.received.status.get("state") == "stopped", 5.0)
        finally:
            for child in children:
                if not child.dead:
                    child.signal(signal.SIGCONT)
                    child.kill()
            self.received.close()
            self._wire.close()
        found = self.findings
        return {
            "rounds": rounds,
            **balance(self._database, self.received),
            "leaks": found.leaks,
            "late_offline": found.late_offline,
            "slow_stop": found.slow_stop,
            "seconds": round(time.monotonic() - began, 1),
            "faults": dict(sorted(found.faults.items())),
        }

    def _order(self, rounds: int) -> list[str]:
        names: list[str] = []
        while len(names) < rounds:
            bag = list(self.faults)
            self._chance.shuffle(bag)
            names += bag
        return names[:rounds]

    def _pause(self, least_s: float, most_s: float) -> None:
        time.sleep(self._chance.uniform(least_s, most_s))

    def _flowing(self) -> None:
        """Wait until the status says `online` and a caption has come."""
        count = len(self.received.captions)

        def flowing() -> bool:
            if self._service.dead:
                return True
            return len(self.received.captions) > count + 1 and self.received.status.get("state") == "online"

        if not self.received.until(flowing, FLOWING_S) or self._service.dead:
            how = "has ended" if self._service.dead else f"says {self.received.status}"
            raise FaultRunError(f"fault-run: the service {how} and did not come back; see {self._log}")

    def _broker_killed(self) -> None:
        self.received.broker_goes()
        self._broker.kill()
        self._pause(0.1, 2.5)
        self._broker.serve()

    def _broker_refusing(self) -> None:
        self.received.broker_goes()
        self._broker.kill()
        self._broker.serve(refusing=True)
        self._pause(0.5, 2.5)
        self._broker.kill()
        self._broker.serve()

    def _source_frozen(self) -> None:
        self._feed.signal(signal.SIGSTOP)
        self._pause(0.5, 4.0)  # shorter and longer than what makes the service open it again
        self._feed.signal(signal.SIGCONT)

    def _source_killed(self) -> None:
        self._feed.end(signal.SIGTERM, 5.0)
        self._pause(0.0, 1.5)
        self._feed.start()

    def _rgb_gone(self) -> None:
        self._feed.signal(signal.SIGUSR1)
        self._pause(1.0, 3.0)
        self._feed.signal(signal.SIGUSR2)

    def _worker_raising(self) -> None:
        for _ in range(self._chance.randint(1, 3)):  # three in a row: the models are loaded anew
            self._service.signal(signal.SIGUSR1)

    def _process_killed(self) -> None:
        """With captions in the outbox: the broker is away, or it is there and acknowledges nothing."""
        self._check_leaks()
        away = self._chance.random() < 0.5
        if away:
            self.received.broker_goes()
            self._broker.kill()
        else:
            self._broker.signal(signal.SIGSTOP)
        self._pause(1.5, 3.0)
        if away:
            self._broker.serve()  # without it nobody could hear of the death
            self.received.until(lambda: self.received.status.get("state") in ("online", "degraded"), 2.0)
        self._service.kill()
        if not away:
            self._broker.signal(signal.SIGCONT)
        if not self.received.until(lambda: self.received.status.get("state") == "offline", OFFLINE_S) and not away:
            self.findings.late_offline += 1
        self._warm = None
        self._service.start()

    def _link_silent(self) -> None:
        """Nothing closes: only the keepalive tells. Now and then it is over before anybody noticed."""
        self._wire.flowing.clear()
        try:
            if self._chance.random() < 0.25:
                self._pause(0.2, 2.0)
            elif not self.received.until(lambda: self.received.status.get("state") == "offline", 1.5 * KEEPALIVE_S):
                self.findings.late_offline += 1
        finally:
            self._wire.flowing.set()

    def _holds(self) -> tuple[int, int]:
        """(threads, file descriptors), the least of a second: connections come and go."""
        samples = []
        for _ in range(10):
            samples.append(self._service.holds())
            time.sleep(0.1)
        return min(s[0] for s in samples), min(s[1] for s in samples)

    def _check_leaks(self) -> None:
        """Compare what this life of the service holds with what it held when warm."""
        if self._warm is None:
            return
        threads, files = self._holds()
        self.findings.leaks += threads > self._warm[0] + EXECUTOR or files > self._warm[1]


def failures(found: dict[str, Any]) -> list[str]:
    """The findings that are not as they must be."""
    return [key for key in MUST_NOT_BE if found[key]]


def _configured(config: Config, port: int, database: Path) -> dict[str, Any]:
    """The configuration under test: this run's broker and outbox, windows of half a second, quick to notice."""
    data = with_windows_of(config, min(500, config.windows.length_ms))
    data["node"], data["cameras"] = NODE, {"front": {}}
    data["mqtt"] |= {"enabled": True, "url": f"mqtt://127.0.0.1:{port}", "outbox_file": str(database)}
    data["mqtt"] |= {"outbox_size": 1_000_000, "max_age_s": 86_400.0, "keepalive_s": KEEPALIVE_S}
    data["service"] |= {"port": None, "stalled_after_s": 0.8, "frozen_after_s": 2.0, "max_age_s": 10.0}
    data["service"] |= {"restarts": 1000}
    return data
