"""What several packages share: a real mosquitto on a free loopback port, and which tests share a process."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_REAL_TIME = tuple(
    f"tests/app/{name}"
    for name in (
        *("faults", "live", "publishing", "sensors", "supervision"),
        *("test_cli.py", "test_demo.py", "test_pipeline.py", "test_soak.py", "test_streaming.py"),
    )
)
_BINARY = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """For `-n 2`: tests that wait on clocks, cameras or brokers are one group, the first; any other file is a group.

    A group runs in one process, one test after another.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByClockOrFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "real time" if file.startswith(_REAL_TIME) else file

    return ByClockOrFile(config, log)


class Mosquitto:
    """A broker process that a test may stop and start again; it keeps its port, and no state."""

    def __init__(self, folder: Path, extra: str = "") -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"mqtt://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None
        self._config = folder / "mosquitto.conf"
        self._config.write_text(
            f"listener {self.port} 127.0.0.1\npersistence false\n{extra or 'allow_anonymous true'}\n"
        )

    def start(self) -> None:
        assert _BINARY is not None
        quiet = subprocess.DEVNULL
        self.process = subprocess.Popen([_BINARY, "-c", str(self._config)], stdout=quiet, stderr=quiet)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self.port), 0.2).close()
            except OSError:
                assert self.process.poll() is None, "mosquitto ended at once"
                time.sleep(0.02)
            else:
                return
        raise AssertionError("mosquitto does not listen")

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@pytest.fixture
def graphs_traced_once() -> Iterator[None]:
    """Exports of one shape share their graphs: tests/kept.py."""
    from tests.kept import traced_once  # needs torch

    with traced_once():
        yield


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    """A running mosquitto, stopped after the test."""
    if _BINARY is None:
        pytest.skip("mosquitto is not installed")
    broker = Mosquitto(tmp_path)
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture
def refusing_mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    """A running mosquitto that lets nobody in."""
    if _BINARY is None:
        pytest.skip("mosquitto is not installed")
    broker = Mosquitto(tmp_path, "allow_anonymous false")
    broker.start()
    yield broker
    broker.stop()
