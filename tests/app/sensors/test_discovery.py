"""What `cameras` and `doctor` say of the cameras of this machine."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from app.cli import cli
from app.doctor import event_cameras
from app.sensors import discovery


def test_the_command_lists_and_tells_what_to_do() -> None:
    result = CliRunner().invoke(cli, ["cameras", "--json"])
    told = json.loads(result.stdout)
    assert result.exit_code == 0
    assert told["event_cameras"] == discovery.event_cameras()
    assert len(told["video_cameras"]) == len(discovery.video_devices())
    assert bool(told["event_cameras"]) != ("event_cameras" in told["remedies"])
    lines = CliRunner().invoke(cli, ["cameras"]).stdout
    assert ("event cameras: none; plug one in" in lines) == (not told["event_cameras"])


def test_nodes_are_listed_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for name in ("video10", "video2", "videocodec", "null"):
        (tmp_path / name).touch()
    found = discovery.video_devices(tmp_path)
    assert [Path(device.path).name for device in found] == ["video2", "video10"]
    assert all(device.usable for device in found)


def test_a_camera_on_usb_that_cannot_be_opened_is_told_apart_from_none(tmp_path: Path) -> None:
    for number, vendor in enumerate(("152a", "046d")):
        device = tmp_path / f"1-{number}"
        device.mkdir()
        (device / "idVendor").write_text(vendor + "\n")
    assert discovery.seen_on_usb(tmp_path) == 1
    if not discovery.event_cameras():
        assert "udev rules" in event_cameras(tmp_path).remedy
        assert event_cameras(tmp_path).found == "1 on USB that this user may not open"
