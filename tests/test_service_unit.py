"""The systemd unit as it ships, and what `make install-service` puts where."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from app.config import load_config

ROOT = Path(__file__).parents[1]
UNIT = ROOT / "systemd" / "event-captioner.service"

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def settings() -> dict[str, list[str]]:
    """Every value of every key of the [Service] section, in order."""
    found: dict[str, list[str]] = {}
    section = UNIT.read_text().partition("[Service]")[2].partition("[Install]")[0]
    for line in section.splitlines():
        if line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


@needs_systemd
def test_systemd_finds_nothing_to_say_of_the_unit(tmp_path: Path) -> None:
    installed = tmp_path / "event-captioner.service"  # as it will be: with a program where ExecStart looks for it
    installed.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", UNIT.read_text(), flags=re.MULTILINE))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", installed], capture_output=True, text=True)
    ours = [line for line in done.stderr.splitlines() if "event-captioner" in line]
    assert (done.returncode, ours) == (0, [])


@needs_systemd
def test_the_sandbox_scores_at_most_two() -> None:
    done = subprocess.run(["systemd-analyze", "security", "--offline=true", UNIT], capture_output=True, text=True)
    score = re.search(r"Overall exposure level for event-captioner\.service: ([\d.]+)", done.stdout)
    assert score, done.stdout + done.stderr
    assert float(score[1]) <= 2.0


def test_the_sandbox_leaves_cameras_and_the_gpu_usable() -> None:
    found = settings()
    assert "PrivateDevices" not in found
    assert "MemoryDenyWriteExecute" not in found
    assert "PrivateNetwork" not in found
    assert "AF_NETLINK" in found["RestrictAddressFamilies"][0], "libusb hears of cameras through it"
    allowed = {value.split()[0] for value in found["DeviceAllow"]}
    assert allowed >= {
        *("char-usb_device", "char-video4linux", "char-nvidia-frontend", "char-nvidia-uvm"),
        *("/dev/nvidia0", "/dev/nvidiactl", "/dev/nvidia-uvm"),
    }
    assert set(found["SupplementaryGroups"][0].split()) == {"video", "plugdev", "render"}


def test_what_is_installed_can_be_removed(tmp_path: Path) -> None:
    def make(*arguments: str) -> None:
        subprocess.run(["make", "-s", *arguments, f"DESTDIR={tmp_path}"], cwd=ROOT, check=True, capture_output=True)

    make("service-files")
    config = tmp_path / "etc/event-captioner/config.yaml"
    unit = tmp_path / "etc/systemd/system/event-captioner.service"
    assert load_config(config).node == "synthetic"
    start = configparser.ConfigParser(strict=False, interpolation=None)
    start.read_string(unit.read_text())
    assert start["Service"]["ExecStart"] == (
        "/opt/event-captioner/venv/bin/event-captioner run --config /etc/event-captioner/config.yaml"
    )
    assert (tmp_path / "opt/event-captioner/app/live/service.py").exists()
    installed = {path.name for path in (tmp_path / "opt/event-captioner").iterdir()}
    assert {"app", "models", "export", "docs"} <= installed, "what any command imports, and what the unit refers to"
    assert not list((tmp_path / "opt").rglob("__pycache__"))

    config.write_text("node: mine\n")
    make("service-files")
    assert load_config(config).node == "mine", "a configuration that is there is left alone"
    make("uninstall-service")
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()) == [
        "etc/event-captioner/config.yaml"
    ]
    make("uninstall-service", "PURGE=1")
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_nothing_is_installed_into_a_home_directory() -> None:
    found = settings()
    assert found["ProtectHome"] == ["yes"]
    paths = re.findall(r"(?<![\w.])/(?:home|root|run/user)\b\S*", UNIT.read_text())
    assert paths == []
