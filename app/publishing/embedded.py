"""A broker for the demo: the configured one where it answers, else mosquitto, else amqtt, as our child process."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from app.children import signalled_at_orphaning
from app.publishing.broker import Broker, parse_url
from app.publishing.errors import PublishError

_START_S = 15.0
_STOP_S = 5.0
# CONNECT of MQTT 3.1.1 with an empty client id and a clean session: the least that every broker answers with a CONNACK
_CONNECT = bytes([0x10, 12, 0, 4]) + b"MQTT" + bytes([4, 2, 0, 10, 0, 0])
_DISCONNECT = bytes([0xE0, 0])
_CONNACK = 0x20


@dataclass(frozen=True, slots=True)
class FoundBroker:
    """Where to publish, and what answers there: `configured`, `mosquitto` or `amqtt`."""

    url: str
    kind: str


@contextlib.contextmanager
def find_or_start_broker(url: str) -> Iterator[FoundBroker]:
    """The broker at `url` when one answers; else one on a free loopback port, ended with the context.

    Call it from the main thread: Linux ends the child with the thread that started it.

    Raises PublishError for a bad URL, and when no broker answers and none can be started.
    """
    broker = parse_url(url)
    if answers(broker):
        yield FoundBroker(broker.url, "configured")
        return
    binary = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    if binary is None and importlib.util.find_spec("amqtt") is None:
        raise PublishError(
            f"broker {broker}: no answer, and none can be started: "
            "install mosquitto, or amqtt: pip install -e '.[demo]' in the clone"
        )
    with tempfile.TemporaryDirectory(prefix="event-captioner-broker-") as folder:
        port = free_port()
        command = _mosquitto(binary, port, Path(folder)) if binary else [sys.executable, "-m", __name__, str(port)]
        with _child(command, Broker("127.0.0.1", port)) as local:
            yield FoundBroker(local.url, "mosquitto" if binary else "amqtt")


def answers(broker: Broker, timeout_s: float = 2.0) -> bool:
    """Whether an MQTT broker listens there; with TLS, whether anything does."""
    try:
        with socket.create_connection((broker.host, broker.port), timeout_s) as connection:
            if broker.tls:
                return True
            connection.settimeout(timeout_s)
            connection.sendall(_CONNECT)
            if connection.recv(1)[:1] != bytes([_CONNACK]):
                return False
            with contextlib.suppress(OSError):  # one that refuses us has closed already
                connection.sendall(_DISCONNECT)
            return True
    except OSError:
        return False


def free_port() -> int:
    """A TCP port that nothing on the loopback interface used a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _mosquitto(binary: str, port: int, folder: Path) -> list[str]:
    config = folder / "mosquitto.conf"
    # `user` matters to root only: mosquitto would change to a user of its own and so forget to die with its parent.
    config.write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nlog_type error\nuser root\n"
    )
    return [binary, "-c", str(config)]


@contextlib.contextmanager
def _child(command: list[str], broker: Broker) -> Iterator[Broker]:
    """Run a broker until the context ends. Its own session keeps a terminal's Ctrl-C from it: our farewell needs it."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=partial(signalled_at_orphaning, signal.SIGTERM),
    )
    try:
        deadline = time.monotonic() + _START_S
        while not answers(broker, 0.5):
            if process.poll() is not None:
                raise PublishError(f"{command[0]}: ended with code {process.returncode} instead of serving {broker}")
            if time.monotonic() > deadline:
                raise PublishError(f"{command[0]}: does not answer on {broker} after {_START_S:.0f} s")
            time.sleep(0.05)
        yield broker
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


async def _serve_amqtt(port: int) -> None:
    """amqtt on the loopback interface, until terminated."""
    from amqtt.broker import Broker as Amqtt  # the extra `demo`

    logging.disable(logging.CRITICAL)  # nobody reads a demo broker's log
    config = {
        "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}},
        "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
    }
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    server = Amqtt(config)
    await server.start()
    await stop.wait()
    await server.shutdown()


if __name__ == "__main__":
    asyncio.run(_serve_amqtt(int(sys.argv[1])))
