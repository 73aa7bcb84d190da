"""A network camera: RTSP (RFC 2326) over TCP with a password, MPEG-TS in RTP (RFC 2250), one viewer at a time."""

from __future__ import annotations

import base64
import itertools
import socket
import struct
import threading
import time
from pathlib import Path

PACKETS = 7 * 188  # bytes of MPEG-TS in one of RTP
SDP = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nt=0 0\r\nm=video 0 RTP/AVP 33\r\na=control:track\r\n"


class RtspServer:
    """Serves an MPEG-TS file again and again to whoever knows user and password; `refused` counts who did not."""

    def __init__(self, video: Path, user: str, password: str) -> None:
        self._stream = video.read_bytes()
        self._secret = base64.b64encode(f"{user}:{password}".encode()).decode()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self.refused = 0
        self._viewer: socket.socket | None = None
        threading.Thread(target=self._run, daemon=True).start()

    def close(self) -> None:
        """Unplugged: nobody is served, and the viewer's connection ends."""
        self._server.close()
        if self._viewer is not None:
            self._viewer.shutdown(socket.SHUT_RDWR)

    def _run(self) -> None:
        while True:
            try:
                viewer, _ = self._server.accept()
            except OSError:
                return
            self._viewer = viewer
            with viewer:
                try:
                    self._serve(viewer)
                except OSError:
                    continue

    def _serve(self, viewer: socket.socket) -> None:
        lines = viewer.makefile("r", newline="\r\n")
        while True:
            request = list(itertools.takewhile(str.strip, lines))
            if not request:
                return
            method, headers = request[0].split()[0], dict(line.strip().split(": ", 1) for line in request[1:])
            head = f"CSeq: {headers['CSeq']}\r\nSession: 1\r\n"
            if method == "DESCRIBE" and headers.get("Authorization") != f"Basic {self._secret}":
                self.refused += 1
                answer = f'RTSP/1.0 401 Unauthorized\r\n{head}WWW-Authenticate: Basic realm="camera"\r\n\r\n'
            elif method == "DESCRIBE":
                sized = f"Content-Type: application/sdp\r\nContent-Length: {len(SDP)}\r\n\r\n{SDP}"
                answer = f"RTSP/1.0 200 OK\r\n{head}{sized}"
            elif method == "SETUP":
                answer = f"RTSP/1.0 200 OK\r\n{head}Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n\r\n"
            else:
                answer = f"RTSP/1.0 200 OK\r\n{head}Public: DESCRIBE, SETUP, PLAY, TEARDOWN\r\n\r\n"
            viewer.sendall(answer.encode())
            if method == "PLAY":
                self._play(viewer)

    def _play(self, viewer: socket.socket) -> None:
        chunks = [self._stream[at : at + PACKETS] for at in range(0, len(self._stream), PACKETS)]
        for number, chunk in enumerate(itertools.cycle(chunks)):
            packet = struct.pack(">BBHII", 0x80, 33, number & 0xFFFF, number * 900, 1) + chunk
            viewer.sendall(struct.pack(">cBH", b"$", 0, len(packet)) + packet)
            time.sleep(0.005)
