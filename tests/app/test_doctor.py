"""`doctor`: one screen, a remedy beside everything that is missing, and an exit code that tells whether it can run."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.cli import cli
from app.doctor import broker, video_cameras
from tests.conftest import Mosquitto
from tests.models.tiny import make_pair

PARTS = {
    *("drafter", "target", "GPU and driver", "TensorRT", "ONNX Runtime"),
    *("event cameras", "video cameras", "broker"),
}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_pair(tmp_path_factory.mktemp("doctor"))


def examined(tmp_path: Path, pair: tuple[Path, Path], runtime: str, url: str) -> tuple[int, dict]:
    models = {
        role: {"path": str(path), "runtime": runtime} for role, path in zip(("drafter", "target"), pair, strict=True)
    }
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps({"models": models, "mqtt": {"url": url}}))
    result = CliRunner().invoke(cli, ["doctor", "--config", str(config), "--json"])
    return result.exit_code, json.loads(result.stdout)


def test_a_configuration_that_can_run(tmp_path: Path, pair: tuple[Path, Path], mosquitto: Mosquitto) -> None:
    code, found = examined(tmp_path, pair, "onnx", mosquitto.url)
    assert (code, found["works"]) == (0, True)
    findings = {finding["name"]: finding for finding in found["findings"]}
    assert set(findings) == PARTS
    assert findings["target"]["found"] == "tiny-target runs on onnx"
    assert findings["broker"]["ok"]
    assert all(finding["remedy"] for finding in findings.values() if not finding["ok"])


def test_one_that_cannot(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    code, found = examined(tmp_path, (pair[0], tmp_path / "absent"), "onnx", "mqtt://127.0.0.1:9")
    findings = {finding["name"]: finding for finding in found["findings"]}
    assert (code, found["works"]) == (1, False)
    assert "no such folder" in findings["target"]["found"]
    assert (findings["broker"]["ok"], findings["broker"]["needed"]) == (False, False)  # captions wait in the outbox


def test_the_screen(pair: tuple[Path, Path]) -> None:
    result = CliRunner().invoke(cli, ["doctor"])
    assert result.exit_code in (0, 1)
    assert all(part.split()[0] in result.stdout for part in PARTS)


def test_cameras_and_broker(tmp_path: Path) -> None:
    assert video_cameras(tmp_path).found == "none"
    (tmp_path / "video0").touch()
    assert video_cameras(tmp_path).ok
    assert "mqtt.url" in broker("mqtt://127.0.0.1:9").remedy
