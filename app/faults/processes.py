"""The three processes of a fault run: broker, feed and service; each can be started, broken and ended."""

from __future__ import annotations

import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from app.children import signalled_at_orphaning
from app.config import Config
from app.publishing.broker import Broker
from app.publishing.embedded import answers, free_port
from app.publishing.errors import PublishError

ROOT = Path(__file__).resolve().parents[2]
START_S = 15.0
DRAW_S = 180.0  # for the street, on a busy machine
LONGEST_DRAWN_S = 60  # of it; 5 MB a second


class Child:
    """A process that is ended with SIGKILL, if need be, and waited for. It dies with the thread that starts it."""

    def __init__(self, command: list[str], log: Path) -> None:
        self.command, self._log = command, log
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        with self._log.open("ab") as log:
            env = {**os.environ, "PYTHONPATH": str(ROOT)}
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=env,
                preexec_fn=partial(signalled_at_orphaning, signal.SIGKILL),
            )

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.end(signal.SIGKILL, 5.0)

    def end(self, number: int, patience_s: float) -> float:
        """Send a signal and wait for the end, if need be with SIGKILL; seconds until then."""
        if self.process is None or self.process.poll() is not None:
            return 0.0
        began = time.monotonic()
        self.process.send_signal(number)
        try:
            self.process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        return time.monotonic() - began

    @property
    def dead(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def holds(self) -> tuple[int, int]:
        """(threads, file descriptors) now."""
        found = psutil.Process(self.pid)
        return found.num_threads(), found.num_fds()


class Mosquitto(Child):
    """A broker that keeps its port and nothing else. Raises PublishError where none is installed."""

    def __init__(self, folder: Path) -> None:
        binary = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
        if binary is None:
            raise PublishError("fault-run: needs a real broker: sudo apt install mosquitto")
        self.port = free_port()
        self._config = folder / "mosquitto.conf"
        super().__init__([binary, "-c", str(self._config)], folder / "mosquitto.log")

    def serve(self, *, refusing: bool = False) -> None:
        """Start, and wait until it answers; `refusing` lets nobody in."""
        allow = str(not refusing).lower()
        self._config.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous {allow}\npersistence false\nlog_type error\n"
            "max_queued_messages 0\nuser root\n"
        )
        self.start()
        deadline = time.monotonic() + START_S
        while not answers(Broker("127.0.0.1", self.port), 0.5):
            if self.dead or time.monotonic() > deadline:
                raise PublishError(f"fault-run: mosquitto does not serve port {self.port}; see {self._log}")
            time.sleep(0.02)


class Street(Child):
    """The demo street over two dv network streams."""

    def __init__(self, folder: Path, seed: int, seconds: float) -> None:
        self._ports = free_port(), free_port()
        drawn_s = min(LONGEST_DRAWN_S, math.ceil(seconds))
        command = [sys.executable, "-P", "-m", "app.faults.street_server", *map(str, (*self._ports, seed, drawn_s))]
        super().__init__(command, folder / f"street{seed}.log")

    def camera(self) -> dict[str, Any]:
        """Its section of the configuration."""
        events, frames = ({"network": f"127.0.0.1:{port}"} for port in self._ports)
        return {"source": "live", "event_camera": events, "rgb_camera": frames}

    def serve(self) -> None:
        """Start, and wait until both are served. Raises PublishError when that does not come about."""
        self.start()
        deadline = time.monotonic() + DRAW_S
        for port in self._ports:
            while not answers_tcp(port):
                if self.dead or time.monotonic() > deadline:
                    raise PublishError(f"load-run: the street is not served; see {self._log}")
                time.sleep(0.1)


def answers_tcp(port: int) -> bool:
    """Whether something listens there."""
    try:
        socket.create_connection(("127.0.0.1", port), 1.0).close()
    except OSError:
        return False
    return True


def with_windows_of(config: Config, length_ms: int) -> dict[str, Any]:
    """The configuration as plain data, its windows of another length, one after the other."""
    data: dict[str, Any] = config.model_dump(mode="json")
    span = config.windows.drafter_span_ms
    span = span if span == "auto" else min(span, length_ms)
    data["windows"] |= {"length_ms": length_ms, "hop_ms": length_ms, "drafter_span_ms": span}
    return data


def feed(folder: Path) -> tuple[Child, int]:
    """The network source and its port."""
    port = free_port()
    return Child([sys.executable, "-P", "-m", "app.faults.feed", str(port)], folder / "feed.log"), port


def service(folder: Path, config: Path, feed_port: int) -> Child:
    """The service under test."""
    command = [sys.executable, "-P", "-m", "app.faults.service", str(config), str(feed_port)]
    return Child(command, folder / "service.log")
