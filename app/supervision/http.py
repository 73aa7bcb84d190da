"""/healthz and /metrics over HTTP, from a thread of their own; meant for the loopback interface."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest


class ServeError(Exception):
    """The address for /healthz and /metrics cannot be used."""


class StatusServer:
    """Serves `health()` (a JSON object; `ok` false becomes 503) and the metrics of `registry` while it is entered.

    Raises ServeError when the address is taken. Port 0 takes any; `port` tells which.
    """

    def __init__(self, host: str, port: int, health: Callable[[], dict[str, Any]], registry: CollectorRegistry) -> None:
        class Handler(_Handler):
            pass

        Handler.health, Handler.registry = staticmethod(health), registry
        try:
            self._server = ThreadingHTTPServer((host, port), Handler)
        except OSError as error:
            raise ServeError(
                f"/healthz: cannot listen on {host}:{port}: {error.strerror or error}; "
                "name another service.port, or null for none"
            ) from None
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self.port: int = self._server.server_address[1]

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="http", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    health: Callable[[], dict[str, Any]]
    registry: CollectorRegistry
    timeout = 5  # a client that says nothing holds a thread no longer
    server_version, sys_version = "event-captioner", ""

    def do_GET(self) -> None:
        if self.path == "/healthz":
            found = self.health()
            body = json.dumps(found, ensure_ascii=False).encode()
            self._reply(200 if found["ok"] else 503, "application/json", body)
        elif self.path == "/metrics":
            self._reply(200, CONTENT_TYPE_LATEST, generate_latest(self.registry))
        else:
            self._reply(404, "text/plain; charset=utf-8", b"/healthz or /metrics\n")

    def _reply(self, code: int, kind: str, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """A scrape every few seconds is not worth a line."""
