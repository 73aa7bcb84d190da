"""Serves the demo street as two dv network streams, in real time, as a process: it is killed, for nothing else ends it.

dv-processing's writer hangs when it is deleted while somebody reads, and aborts where it cannot tell of an error.
"""

from __future__ import annotations

import os
import sys
import time

import dv_processing as dv

from app.sensors.contract import Events, Item
from app.sensors.dv_data import dv_frame
from app.sensors.events import batches, shifted
from app.sensors.merging import BATCH_US
from app.sensors.synthetic import RESOLUTION, START_US, synthetic_items
from app.sensors.writer import event_store

NAME = "STREET"
CLIENTS = 10
SPINNING_NICE = 10


def main(argv: list[str]) -> None:
    """`street_server EVENTS_PORT FRAMES_PORT SEED SECONDS`; times are those of this machine's wall clock.

    So many seconds are drawn before it begins, which leaves the cores to what is measured; then they come again.
    """
    seconds = int(argv[3])
    drawn = _drawn(int(argv[2]), seconds)
    events = _serve(argv[0], dv.io.Stream.EventStream(0, "events", NAME, RESOLUTION))
    frames = _serve(argv[1], dv.io.Stream.FrameStream(0, "frames", NAME, RESOLUTION))
    _make_way()
    begin_us = time.time_ns() // 1000
    while True:
        for due_us, item in drawn:
            time.sleep(max(0.0, (begin_us + due_us) / 1e6 - time.time()))
            if isinstance(item, Events):
                events.writeEvents(event_store(shifted(item, begin_us)))
            else:
                frame = dv_frame(item)
                frame.timestamp = begin_us + due_us
                frames.writeFrame(frame)
        begin_us += seconds * 1_000_000


def _drawn(seed: int, seconds: int) -> list[tuple[int, Item]]:
    """(instant at which it is there, item), µs from the start, as a camera hands them over."""
    found: list[tuple[int, Item]] = []
    for item in synthetic_items(seed, seconds):
        if isinstance(item, Events):
            found += [(int(run.t[-1]), run) for run in batches(shifted(item, -START_US), 0, BATCH_US)]
        else:
            found.append((item.t_us - START_US, item))
    return sorted(found, key=lambda pair: pair[0])


def _serve(port: str, stream: dv.io.Stream) -> dv.io.NetworkWriter:
    return dv.io.NetworkWriter("127.0.0.1", int(port), stream, CLIENTS, _complain)


def _make_way() -> None:
    """A writer's thread spins while it has nothing to send: it gets what is left of the cores, and a tenth at least."""
    for thread in os.listdir("/proc/self/task"):
        if int(thread) != os.getpid():
            os.setpriority(os.PRIO_PROCESS, int(thread), SPINNING_NICE)


def _complain(code: int, text: str) -> None:
    print(f"street: {text} ({code})", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
