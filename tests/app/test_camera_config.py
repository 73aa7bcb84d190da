"""The section `cameras`: every camera can be named, and what does not fit is one line with its place."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.cli import cli
from app.config import load_config
from app.live.build import open_camera
from app.sensors.contract import SourceError
from app.sensors.spec import EventCameraSpec, Intrinsics, ViewSpec
from app.yaml_source import ConfigError

CONFIGS = Path(__file__).parents[2] / "configs"


def camera(folder: Path, text: str):  # type: ignore[no-untyped-def]
    path = folder / "x.yaml"
    path.write_text(f"cameras:\n  front:\n    {text}\n")
    return load_config(path).cameras["front"]


@pytest.mark.parametrize("name", ["davis346", "dvxplorer+rgb", "jetson-orin", "desktop-rtx"])
def test_check_config_accepts_what_ships_for_cameras(name: str) -> None:
    result = CliRunner().invoke(cli, ["check-config", str(CONFIGS / f"{name}.yaml")])
    assert result.exit_code == 0, result.output
    (shipped,) = load_config(CONFIGS / f"{name}.yaml").cameras.values()
    assert shipped.source == "live"
    assert shipped.event_camera is not None
    assert (shipped.rgb_camera is None) == (name == "davis346")


def test_an_event_camera_as_it_is_asked_for(tmp_path: Path) -> None:
    text = (
        "{source: live, event_camera: {device: any, exposure_us: auto, rotate: 90, crop: [1, 2, 30, 40], "
        "biases: {On: [5, 31], ApsCascode: 21}, undistort: {fx: 1, fy: 2.0, cx: 3, cy: 4, distortion: [0, 0, 0, 0]}}}"
    )
    event_camera = camera(tmp_path, text).event_camera
    assert event_camera is not None
    assert event_camera.spec() == EventCameraSpec(
        device="any",
        exposure_us="auto",
        biases={"On": (5, 31), "ApsCascode": 21},  # though YAML takes a bare On for `true`
        view=ViewSpec(Intrinsics(1.0, 2.0, 3.0, 4.0, (0.0, 0.0, 0.0, 0.0)), (1, 2, 30, 40), 90),
    )


def test_files_are_relative_to_the_configuration(tmp_path: Path) -> None:
    video = camera(tmp_path, "{source: live, rgb_camera: {file: v.mp4}}").rgb_camera
    assert video is not None
    assert video.file == str(tmp_path / "v.mp4")
    text = "{source: live, rgb_camera: {url: 'rtsp://me@cam/1', password_file: cam.password}}"
    with pytest.raises(SourceError, match=r"camera password: cannot read .*cam\.password"):
        open_camera(camera(tmp_path, text))


def test_opening_can_be_called_off(tmp_path: Path) -> None:
    called_off = threading.Event()
    called_off.set()
    text = "{source: live, event_camera: {network: '127.0.0.1:9'}, rgb_camera: {device: 250}}"
    with pytest.raises(SourceError, match=r"127.0.0.1:9: opening was called off; .*250: opening was called off"):
        open_camera(camera(tmp_path, text), called_off)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("{source: live}", "cameras.front: a live source needs an event_camera, an rgb_camera, or both"),
        ("{event_camera: {device: any}}", "cameras.front: source is synthetic: event_camera and rgb_camera are for"),
        ("{source: live, event_camera: {}}", "cameras.front.event_camera: an event camera is either a device"),
        (
            "{source: live, event_camera: {network: here}}",
            "cameras.front.event_camera.network: 'here' is not host:port",
        ),
        (
            "{source: live, event_camera: {network: 'h:1', biases: {Diff: 1}}}",
            "cameras.front.event_camera: exposure_us",
        ),
        ("{source: live, event_camera: {device: any, biases: {Dif: 1}}}", "cameras.front.event_camera: no iniVation"),
        ("{source: live, event_camera: {device: any, rotate: 45}}", "cameras.front.event_camera.rotate: 45 is not one"),
        (
            "{source: live, event_camera: {device: any, crop: [1, 2, 3]}}",
            "cameras.front.event_camera.crop: [1, 2, 3] is",
        ),
        ("{source: live, event_camera: {device: any, crop: [0, 0, 0, 9]}}", "cameras.front.event_camera: crop"),
        (
            "{source: live, rgb_camera: {device: 0, url: 'rtsp://x'}}",
            "cameras.front.rgb_camera: an RGB camera is exactly",
        ),
        ("{source: live, rgb_camera: {url: v.mp4}}", "cameras.front.rgb_camera: url begins with rtsp://"),
        ("{source: live, rgb_camera: {url: 'rtsp://a:b@c/'}}", "cameras.front.rgb_camera: no password in this file"),
        (
            "{source: live, rgb_camera: {gstreamer: videotestsrc}}",
            "cameras.front.rgb_camera: a GStreamer pipeline needs",
        ),
        ("{source: live, rgb_camera: {gstreamer: 'a ! fakesink'}}", "cameras.front.rgb_camera.gstreamer: give the"),
        ("{source: live, rgb_camera: {gstreamer: 'a \"'}}", "cameras.front.rgb_camera.gstreamer: this pipeline has a"),
        ("{source: live, rgb_camera: {file: v.mp4, exposure_us: 9}}", "cameras.front.rgb_camera: exposure_us is for a"),
        (
            "{source: live, event_camera: {device: any}, rgb_camera: {device: 0, homography: [[1, 0], [0, 1]]}}",
            "cameras.front.rgb_camera.homography: [[1, 0], [0, 1]] is not a list of 3 items, each a list",
        ),
        (
            "{source: live, event_camera: {device: any}, "
            "rgb_camera: {device: 0, homography: [[1, 0, 0], [2, 0, 0], [0, 0, 1]]}}",
            "cameras.front.rgb_camera.homography: this homography is singular",
        ),
        (
            "{source: live, rgb_camera: {device: 0, homography: [[1, 0, 0], [0, 1, 0], [0, 0, 1]]}}",
            "cameras.front: a homography maps to an event camera, and there is none here",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path: Path, text: str, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        camera(tmp_path, text)
    told = str(caught.value).replace(str(tmp_path), "").lstrip("/")
    assert told.startswith((f"x.yaml:3: {line}", f"x.yaml:2: {line}")), told
    assert "\n" not in told


def test_check_config_ends_with_code_2(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("cameras: {front: {source: live}}\n")
    with pytest.raises(ConfigError):
        CliRunner().invoke(cli, ["check-config", str(tmp_path / "x.yaml")], catch_exceptions=False)
