"""Live sources through their capture processes: streams, pipelines, files; lost, come back, bounded, never left."""

from __future__ import annotations

import asyncio
import functools
import http.server
import itertools
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from app.sensors import live
from app.sensors.capture_process import open_device
from app.sensors.contract import Events, Frame, Item, SourceError
from app.sensors.live import Live
from app.sensors.merging import RawFrame
from app.sensors.spec import CameraSpec, EventCameraSpec, RgbCameraSpec, ViewSpec
from app.sensors.throttle import Throttle
from tests.app.sensors import dv_server
from tests.app.sensors.processes import PATTERN, alive, children, needs_gstreamer
from tests.app.sensors.rtsp_server import RtspServer
from tests.app.sensors.serving import Server, free_port


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(*ports: int) -> Server:
        servers.append(Server(*ports))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


def read(source: Live, enough: Callable[[list[Item]], bool]) -> list[Item]:
    """Until there is enough; the source is closed."""

    async def some() -> list[Item]:
        found: list[Item] = []
        try:
            async with asyncio.timeout(200):
                async for item in source:
                    found.append(item)
                    if enough(found):
                        return found
        finally:
            await source.close()
        raise AssertionError("the source ended without a word")

    return asyncio.run(some())


def frames(found: list[Item]) -> list[Frame]:
    return [item for item in found if isinstance(item, Frame)]


def of_each(count: int) -> Callable[[list[Item]], bool]:
    """Whether so many runs of events and so many frames have come, asked after every item."""
    seen = {Events: 0, Frame: 0}

    def enough(found: list[Item]) -> bool:
        seen[type(found[-1])] += 1
        return min(seen.values()) >= count

    return enough


def test_events_and_frames_of_a_network_stream(serve: Callable[..., Server]) -> None:
    ports = free_port(), free_port()
    serve(*ports)
    source = Live(
        EventCameraSpec(network=f"localhost:{ports[0]}", view=ViewSpec(rotate=90)),
        RgbCameraSpec(network=f"127.0.0.1:{ports[1]}", fps=20),
    )
    assert source.info.name == dv_server.NAME
    assert source.info.resolution == dv_server.SIZE[::-1]
    assert (source.info.live, source.info.has_events, source.info.has_frames) == (True, True, True)
    assert source.info.one_clock
    assert not source.info.one_stream
    found = read(source, of_each(8))
    events = [item for item in found if isinstance(item, Events)]
    assert all((run.x < 48).all() and (run.y < 64).all() and len(run) for run in events)
    assert all(int(run.t[-1]) - int(run.t[0]) <= 20_000 for run in events)
    assert all(before.t[-1] <= after.t[0] for before, after in itertools.pairwise(events))
    times = [frame.t_us for frame in frames(found)]
    assert times == sorted(times)
    assert times[-1] - times[0] > (len(times) - 2) * 50_000
    assert frames(found)[0].image[10, 10].tolist() == [200, 0, 0]
    assert frames(found)[0].image[10, 60].tolist() == [0, 0, 0]


def test_a_lost_camera_is_tried_again_while_the_other_goes_on(serve: Callable[..., Server]) -> None:
    events_port, frames_port = free_port(), free_port()
    events_server, _ = serve(events_port), serve(free_port(), frames_port)
    source = Live(
        EventCameraSpec(network=f"127.0.0.1:{events_port}"), RgbCameraSpec(network=f"127.0.0.1:{frames_port}")
    )
    lost_at: list[int] = []
    both = of_each(3)

    def back(found: list[Item]) -> bool:
        if not lost_at and both(found):
            events_server.kill()
            lost_at.append(len(found))
        if lost_at and "events" in source.trouble and len(lost_at) == 1:
            lost_at.append(len(found))
            serve(events_port)
        return len(lost_at) == 2 and not source.trouble and isinstance(found[-1], Events)

    found = read(source, back)
    assert frames(found[lost_at[1] :])


def test_a_camera_that_falls_silent_beside_another_is_lost(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "SILENT_S", 3.0)
    events_port, frames_port = free_port(), free_port()
    events_server, _ = serve(events_port), serve(free_port(), frames_port)
    source = Live(
        EventCameraSpec(network=f"127.0.0.1:{events_port}"), RgbCameraSpec(network=f"127.0.0.1:{frames_port}")
    )
    both = of_each(3)

    def silent(found: list[Item]) -> bool:
        if both(found):
            events_server.process.send_signal(signal.SIGSTOP)
        return "events" in source.trouble

    read(source, silent)
    assert source.trouble == {"events": f"{dv_server.NAME}: nothing came for 3 s"}


def test_without_any_camera_left_the_source_ends_with_the_reason(serve: Callable[..., Server]) -> None:
    port = free_port()
    server = serve(port)
    source = Live(EventCameraSpec(network=f"127.0.0.1:{port}"))

    def killed(found: list[Item]) -> bool:
        server.kill()
        return False

    with pytest.raises(SourceError, match=f"dv network stream 127.0.0.1:{port}: connection lost"):
        read(source, killed)


@needs_gstreamer
def test_a_camera_that_was_missing_at_first_has_both_opened_anew(serve: Callable[..., Server]) -> None:
    port = free_port()
    source = Live(EventCameraSpec(network=f"127.0.0.1:{port}"), RgbCameraSpec(gstreamer=PATTERN, width=64, height=48))
    assert source.info.has_events
    assert "Connection refused" in source.trouble["events"]
    started: list[Server] = []

    def there(found: list[Item]) -> bool:
        if not started and len(found) > 3:
            started.append(serve(port))
        return False

    with pytest.raises(SourceError, match=f"{dv_server.NAME} is there now: both cameras are opened anew"):
        read(source, there)


@needs_gstreamer
def test_a_pipeline_gives_rgb_frames_and_is_not_left_behind() -> None:
    source = Live(
        frames=RgbCameraSpec(gstreamer=PATTERN, width=66, height=40, fps=10, view=ViewSpec(crop=(0, 0, 60, 40)))
    )
    assert (source.info.has_events, source.info.resolution) == (False, (60, 40))
    (part,) = source._parts.values()
    capture = part._process.pid
    (pipeline,) = children(capture)
    found = frames(read(source, lambda found: len(found) >= 4))
    assert all(frame.image.shape == (40, 60, 3) for frame in found)
    assert found[0].image[20, 30].tolist() == [255, 0, 0]  # red first, and no padding of rows
    assert found[-1].t_us - found[0].t_us > (len(found) - 2) * 100_000  # 30 a second come, ten are wanted
    assert not alive(capture)
    assert not alive(pipeline)


def video(path: Path, count: int = 20, codec: str = "MJPG") -> Path:
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), 25.0, (64, 48))
    for i in range(count):
        image = np.zeros((48, 64, 3), np.uint8)
        image[:, :, 2] = 200 if i < count // 2 else 20  # red, in OpenCV's order
        writer.write(image)
    writer.release()
    return path


def test_a_video_file_plays_in_real_time_again_and_again(tmp_path: Path) -> None:
    source = Live(frames=RgbCameraSpec(file=str(video(tmp_path / "v.avi", 6))))
    found = frames(read(source, lambda found: len(found) >= 14))
    reds = [int(frame.image[20, 20, 0]) for frame in found]
    assert sum(before < 60 and after > 150 for before, after in itertools.pairwise(reds)) >= 2
    assert all(after.t_us > before.t_us for before, after in itertools.pairwise(found))
    assert all(frame.arrived_ns // 1000 >= frame.t_us for frame in found)


@pytest.mark.parametrize(("wanted", "passed"), [(10, 10), (30, 30), (None, 30), (60, 30), (20, 20)])
def test_frames_that_come_too_quickly_are_left_out_evenly(wanted: float | None, passed: int) -> None:
    throttle, jitter = Throttle(wanted), (0, 2, -2)
    times_ms = [1_000_000 + 1000 / 30 * i + jitter[i % 3] for i in range(300)]
    kept = [t for t in times_ms if throttle.passes(round(t * 1e6))]
    assert abs(len(kept) - 10 * passed) <= 2
    assert max(after - before for before, after in itertools.pairwise(kept)) < 1000 / passed + 40


def test_a_network_camera_with_a_password(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENCV_FFMPEG_LOGLEVEL", "-8")
        server = RtspServer(video(tmp_path / "v.ts", 50, "mpg2"), "viewer", "s:c ret")
        address = f"rtsp://viewer@127.0.0.1:{server.port}/stream"
        with pytest.raises(SourceError, match="OpenCV cannot open it; is the address right"):
            open_device(RgbCameraSpec(url=address, password="wrong"))
        camera = open_device(RgbCameraSpec(url=address, password="s:c ret"))
        assert camera.name == f"rtsp://127.0.0.1:{server.port}/stream"
        (frame,) = camera.read()
        assert isinstance(frame, RawFrame)
        assert frame.image.shape == (48, 64, 3)
        server.close()
        with pytest.raises(SourceError, match="gives no more pictures: unplugged, or the connection was lost"):
            list(itertools.chain.from_iterable(camera.read() for _ in range(200)))
        camera.close()


def test_a_network_camera_over_http(tmp_path: Path) -> None:
    handler = functools.partial(Quiet, directory=str(video(tmp_path / "v.avi").parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        camera = open_device(RgbCameraSpec(url=f"http://127.0.0.1:{server.server_address[1]}/v.avi"))
        seen = [camera.read() for _ in range(5)]
        camera.close()
        server.shutdown()
    assert all(isinstance(items[0], RawFrame) and items[0].image.shape == (48, 64, 3) for items in seen)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        (RgbCameraSpec(device=250), "/dev/video250: no such device; see `event-captioner cameras`"),
        (RgbCameraSpec(file="absent.mp4"), "absent.mp4: no such video; check the path"),
        (RgbCameraSpec(url="http://user:secret@127.0.0.1:9/x"), "^http://127.0.0.1:9/x: OpenCV cannot open it; is the"),
        (RgbCameraSpec(network="127.0.0.1:9"), "dv network stream 127.0.0.1:9: Connection refused; is it served"),
        (EventCameraSpec(network="127.0.0.1:9"), "dv network stream 127.0.0.1:9: Connection refused; is it served"),
    ],
)
def test_what_cannot_be_opened_is_one_line(spec: CameraSpec, line: str) -> None:
    with pytest.raises(SourceError, match=line) as caught:
        open_device(spec)
    assert "\n" not in str(caught.value)


@needs_gstreamer
@pytest.mark.parametrize(
    ("pipeline", "line"),
    [
        ("nosuchsrc", 'GStreamer pipeline: ended with exit code 1: erroneous pipeline: no element "nosuchsrc"'),
        ("filesrc location=/absent", 'GStreamer pipeline: ended .*Resource not found.; No such file "/absent"'),
    ],
)
def test_a_pipeline_that_fails_is_one_line(pipeline: str, line: str) -> None:
    with pytest.raises(SourceError, match=line):
        open_device(RgbCameraSpec(gstreamer=pipeline, width=64, height=48))


def test_a_foreign_stream_and_a_video_that_is_none(serve: Callable[..., Server], tmp_path: Path) -> None:
    ports = free_port(), free_port()
    serve(*ports)
    with pytest.raises(SourceError, match="serves 'frames', not events"):
        open_device(EventCameraSpec(network=f"127.0.0.1:{ports[1]}"))
    (tmp_path / "no.mp4").write_bytes(b"not a video")
    with pytest.raises(SourceError, match="OpenCV cannot open it; convert it"):
        open_device(RgbCameraSpec(file=str(tmp_path / "no.mp4")))


def test_a_host_of_several_addresses_is_read_at_the_one_that_answers(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    serve(port)  # at 127.0.0.1 alone
    addresses = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (address, port)) for address in ("127.0.0.2", "127.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: addresses)
    device = open_device(EventCameraSpec(network=f"robot:{port}"))
    assert device.name == dv_server.NAME
    device.close()


def test_what_happened_before_it_was_asked_for_is_let_go(serve: Callable[..., Server]) -> None:
    port = free_port()
    serve(port)
    source = Live(EventCameraSpec(network=f"127.0.0.1:{port}"))
    time.sleep(1.5)
    asked_us = time.time_ns() // 1000
    first = read(source, lambda found: True)[0]
    assert isinstance(first, Events)
    assert first.t[-1] > asked_us - 1_000_000
