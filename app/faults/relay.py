"""A wire between the service and its broker that can go dead without closing, as a radio link does."""

from __future__ import annotations

import contextlib
import socket
import threading

from app.publishing.embedded import free_port

CHUNK = 1 << 16


class Relay:
    """Passes bytes between whoever connects to `port` and 127.0.0.1:`to_port`, both ways, while `flowing` is set.

    While it is not, connections stay open and carry nothing; what was sent meanwhile goes on its way afterwards, as TCP
    would have it.
    """

    def __init__(self, to_port: int) -> None:
        self.port, self._to_port = free_port(), to_port
        self.flowing = threading.Event()
        self.flowing.set()
        self._open: set[socket.socket] = set()
        self._server = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, name="relay", daemon=True).start()

    def close(self) -> None:
        """End every connection."""
        self._server.shutdown(socket.SHUT_RDWR)  # accept() would go on waiting for a socket that is only closed
        self._server.close()
        for end in list(self._open):
            self._end(end)
        self.flowing.set()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._server.accept()
                try:
                    far = socket.create_connection(("127.0.0.1", self._to_port), 2.0)
                except OSError:  # no broker: as if nobody listened here
                    near.close()
                    continue
                far.settimeout(None)
                self._open |= {near, far}
                for ends in ((near, far), (far, near)):
                    for end in ends:
                        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    threading.Thread(target=self._pump, args=ends, name="relay", daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(CHUNK):
                self.flowing.wait()
                sink.sendall(data)
            self.flowing.wait()  # an end does not get through a dead wire either
        for end in (source, sink):
            self._end(end)

    def _end(self, end: socket.socket) -> None:
        self._open.discard(end)
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()
