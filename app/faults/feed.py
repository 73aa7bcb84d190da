"""A network source as a process: serves events and frames to one client after another, and breaks when told to.

SIGTERM: dies in the middle of a packet. SIGSTOP and SIGCONT: freezes and goes on. SIGUSR1: the RGB camera goes,
SIGUSR2: it is back. The messages are those of `app.sensors.protocol`, in real time.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import numpy as np

from app.sensors.contract import Events, Frame, Item, SourceError, SourceInfo
from app.sensors.protocol import HEADER, pack, unpack_events, unpack_frame

WIDTH, HEIGHT = 60, 40
PERIOD_S = 0.02
ANSWER_S = 2.0


def main(argv: list[str]) -> None:
    """`feed PORT`"""
    state = {"frames": True, "dying": False}
    signal.signal(signal.SIGUSR1, lambda *_: state.update(frames=False))
    signal.signal(signal.SIGUSR2, lambda *_: state.update(frames=True))
    signal.signal(signal.SIGTERM, lambda *_: state.update(dying=True))
    with socket.create_server(("127.0.0.1", int(argv[0]))) as server:
        server.settimeout(PERIOD_S)
        while True:
            try:
                client, _ = server.accept()
            except TimeoutError:
                if state["dying"]:
                    os.kill(os.getpid(), signal.SIGKILL)
                continue
            with client:
                client.settimeout(ANSWER_S)
                try:
                    _serve(client, state)
                except OSError:
                    continue


def _serve(client: socket.socket, state: dict[str, bool]) -> None:
    """To one client until it goes. Raises OSError then."""
    chance = np.random.default_rng()
    hello = json.dumps({"resolution": [WIDTH, HEIGHT]}).encode()
    client.sendall(HEADER.pack(b"I", len(hello)) + hello)
    image = chance.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    while True:
        time.sleep(PERIOD_S)
        t_us = time.monotonic_ns() // 1000
        items: list[Item] = [Frame(t_us - 1, image)] if state["frames"] else []
        times = np.linspace(t_us - 10_000, t_us, 50).astype(np.int64)
        x, y = chance.integers(0, HEIGHT, (2, 50)).astype(np.int16)
        items.append(Events(times, x, y, chance.integers(0, 2, 50).astype(np.uint8)))
        for item in items:
            message = pack(item)
            if state["dying"]:
                client.sendall(message[: len(message) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            client.sendall(message)


class FeedClient:
    """The source in the service. Raises SourceError when nothing serves there, or what does says nothing."""

    def __init__(self, port: int) -> None:
        self._name = f"feed 127.0.0.1:{port}"
        try:
            self._socket = socket.create_connection(("127.0.0.1", port), ANSWER_S)
        except OSError as error:
            raise SourceError(f"{self._name}: {error.strerror or error}") from None
        try:
            size = HEADER.unpack(self._exactly(HEADER.size))[1]
            width, height = json.loads(self._exactly(size))["resolution"]
        except OSError as error:
            self._socket.close()
            raise SourceError(f"{self._name}: says nothing ({error})") from None
        self.info = SourceInfo("FEED", (width, height), True, True, True)
        self._transport: Any = None

    async def __aiter__(self) -> AsyncIterator[Item]:
        import asyncio

        self._socket.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=self._socket)
        self._transport = writer.transport
        try:
            while True:
                kind, size = HEADER.unpack(await reader.readexactly(HEADER.size))
                payload = await reader.readexactly(size)
                yield unpack_events(payload) if kind == b"E" else unpack_frame(payload)
        except (asyncio.IncompleteReadError, OSError) as error:
            raise SourceError(f"{self._name}: connection lost ({type(error).__name__})") from None
        finally:
            writer.close()

    async def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()
        self._socket.close()

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            if not (more := self._socket.recv(count - len(data))):
                raise OSError("closed")
            data += more
        return data


if __name__ == "__main__":
    main(sys.argv[1:])
