"""Serves dv network streams, as a process: dv-processing's writer hangs when it is deleted while somebody reads.

`dv_server EVENTS_PORT [FRAMES_PORT]`: events and frames of one camera in real time, until it is killed.
"""

from __future__ import annotations

import sys
import time

import dv_processing as dv
import numpy as np

SIZE = (64, 48)
NAME = "DVXplorer_SERVED"
PERIOD_US = 10_000
EVENTS_A_PERIOD = 100


def main(argv: list[str]) -> None:
    def complain(code: int, text: str) -> None:
        """dv-processing aborts where there is no such function."""

    def serve(port: str, stream: dv.io.Stream) -> dv.io.NetworkWriter:
        return dv.io.NetworkWriter("127.0.0.1", int(port), stream, 10, complain)

    events = serve(argv[0], dv.io.Stream.EventStream(0, "events", NAME, SIZE))
    frames = serve(argv[1], dv.io.Stream.FrameStream(0, "frames", NAME, SIZE)) if len(argv) > 1 else None
    print("serving", flush=True)
    number = 0
    while True:
        t_us = dv.now()
        resolution = SIZE[0], SIZE[1]
        span = (t_us - PERIOD_US) * 1
        store = dv.EventStore()
        for i in range(EVENTS_A_PERIOD):
            store.push_back(span + i * PERIOD_US // EVENTS_A_PERIOD, i % resolution[0], i % resolution[1], i % 2 == 0)
        events.writeEvents(store)
        if frames is not None and number % 3 == 0:
            image = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
            image[:, : SIZE[0] // 2, 2] = 200  # the left half is red, in OpenCV's order
            frames.writeFrame(dv.Frame(t_us, image))
        number += 1
        time.sleep(PERIOD_US / 1e6)


if __name__ == "__main__":
    main(sys.argv[1:])
