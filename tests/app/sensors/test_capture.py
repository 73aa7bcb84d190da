"""The process that reads a camera: called off, bounded, in order, never left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import threading
import time

import numpy as np
import pytest

from app.sensors.capture import Capture, opened
from app.sensors.capture_process import InOrder, Outgoing
from app.sensors.contract import Events, SourceError
from app.sensors.merging import RawFrame
from app.sensors.spec import EventCameraSpec, RgbCameraSpec, ViewSpec, from_json, to_json
from tests.app.sensors.processes import PATTERN, alive, children, needs_gstreamer, wait_until


@needs_gstreamer
def test_a_pipeline_ends_with_its_capture_process_and_that_with_its_parent() -> None:
    spec = RgbCameraSpec(gstreamer=PATTERN, width=64, height=48)
    part = Capture(spec)
    (pipeline,) = children(part._process.pid)
    part._process.kill()
    wait_until(lambda: not alive(pipeline))
    part.close()
    orphan = Capture(spec)
    (pipeline,) = children(orphan._process.pid)
    assert orphan._process.stdin is not None
    orphan._process.stdin.close()  # as when the parent dies
    wait_until(lambda: orphan._process.poll() is not None and not alive(pipeline))
    orphan.close()


def test_opening_is_called_off_while_a_host_stays_silent() -> None:
    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0)) as host:
            host.setblocking(False)
            opening = asyncio.create_task(opened(EventCameraSpec(network=f"127.0.0.1:{host.getsockname()[1]}")))
            connection, _ = await asyncio.get_running_loop().sock_accept(host)  # and not a word
            opening.cancel()
            async with asyncio.timeout(12):  # its own patience is 20 s
                with pytest.raises(asyncio.CancelledError):
                    await opening
            connection.close()

    asyncio.run(scenario())


def test_what_is_called_off_is_not_begun_and_what_cannot_be_begun_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    called_off = threading.Event()
    called_off.set()
    spec = RgbCameraSpec(device=250)
    with pytest.raises(SourceError, match="opening was called off"):
        Capture(spec, called_off=called_off)
    monkeypatch.setattr(sys, "executable", "/absent")
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(SourceError, match="no process can be started to capture it: No such file"):
        Capture(spec)
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_an_unread_capture_keeps_is_bounded_and_what_gives_way_is_counted() -> None:
    outgoing = Outgoing(most_bytes=10_000)
    run = Events(np.arange(100, dtype=np.int64), *(np.zeros(100, kind) for kind in (np.int16, np.int16, np.uint8)))
    for _ in range(10):
        outgoing.put(run)  # 1,300 bytes each
    for number in range(4):
        outgoing.put(RawFrame(number, np.zeros((20, 40, 3), np.uint8)))  # 2,400 bytes and a head
    assert outgoing.dropped == {"events": 1000, "frames": 0}
    outgoing.put(RawFrame(4, np.zeros((20, 40, 3), np.uint8)))
    assert outgoing.dropped == {"events": 1000, "frames": 1}
    outgoing.end("over")
    assert [outgoing.take()[0] for _ in range(5)] == [b"F", b"F", b"F", b"F", b"X"]


def run_of(*times_us: int) -> Events:
    columns = (np.zeros(len(times_us), kind) for kind in (np.int16, np.int16, np.uint8))
    return Events(np.array(times_us, np.int64), *columns)


def test_a_sensor_clock_that_is_set_back_or_one_damaged_time_costs_no_more_than_that() -> None:
    in_order, second = InOrder((64, 48)), 1_000_000
    assert in_order.events(run_of(100 * second, 100 * second, 3)).t.tolist() == [100 * second] * 2
    assert not len(in_order.events(run_of(100 * second - 5))), "a little out of order"
    damaged = run_of(100 * second + 1, 2**50, 100 * second + 2, 3, 100 * second + 4)
    assert in_order.events(damaged).t.tolist() == [100 * second + t for t in (1, 2, 4)]
    assert in_order.events(run_of(2**50)).t.tolist() == [2**50], "the clock was set forward, for all we know"
    assert len(in_order.events(run_of(7, 8))) == 2
    assert len(in_order.events(run_of(9))) == 1
    image = np.zeros((2, 2), np.uint8)
    assert [in_order.frame(RawFrame(t * second, image)) for t in (100, 100, 3, 4)] == [True, False, True, True]


def test_a_camera_goes_to_its_process_as_it_was() -> None:
    one = EventCameraSpec(
        device="any", exposure_us="auto", biases={"Diff": (4, 39), "x": 3}, view=ViewSpec(crop=(1, 2, 3, 4))
    )
    other = RgbCameraSpec(device=0, homography=((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)), event_size=(4, 3))
    assert from_json(to_json(one)) == one
    assert from_json(to_json(other)) == other


@needs_gstreamer
def test_ctrl_c_is_for_the_parent() -> None:
    """A terminal sends it to every process of the group."""
    part = Capture(RgbCameraSpec(gstreamer=PATTERN, width=64, height=48))
    os.kill(part._process.pid, signal.SIGINT)
    time.sleep(0.2)
    assert part._process.poll() is None
    part.close()
