"""`models.*.device`: what it may be, which mistakes are told and where, and whether two models share a GPU then."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.config import Config, load_config, override
from app.yaml_source import ConfigError


def configured(tmp_path: Path, models: str) -> Config:
    file = tmp_path / "robot.yaml"
    file.write_text(f"models:\n{models}")
    return load_config(file)


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("{device: gpu1}", "robot.yaml:2: models.target.device: 'gpu1' is none of auto, cpu and cuda:NUMBER"),
        ('{device: "cuda:-1"}', "robot.yaml:2: models.target.device: 'cuda:-1' is none of"),
        (
            '{runtime: onnx, device: "cuda:1"}',
            "robot.yaml:2: models.target: device cuda:1: runtime onnx runs on the CPU",
        ),
        ('{device: "cuda:1"}', "device cuda:1: runtime onnx runs on the CPU; name one of onnx-cuda, onnx-tensorrt"),
        ("{runtime: [torch, tensorrt], device: cpu}", "device cpu: runtime tensorrt runs on a GPU; name only onnx or"),
    ],
)
def test_a_device_that_cannot_be_is_told_where_it_stands(tmp_path: Path, target: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        configured(tmp_path, f"  target: {target}\n")
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "target",
    [
        "{device: cpu}",
        "{runtime: torch, device: cpu}",
        '{runtime: [tensorrt, onnx], device: "cuda:3"}',
        "{device: auto}",
    ],
)
def test_a_device_that_can_be_is_taken(tmp_path: Path, target: str) -> None:
    configured(tmp_path, f"  target: {target}\n")


def test_left_out_the_runtime_chooses_and_beside_a_named_gpu_it_is_the_first() -> None:
    on_gpus = {"runtime": "tensorrt"}
    assert Config().models.device("drafter") == "auto"
    assert override(Config(), models={"drafter": on_gpus, "target": on_gpus}).models.device("drafter") == "auto"
    named = override(Config(), models={"drafter": on_gpus, "target": on_gpus | {"device": "cuda:1"}}).models
    assert (named.device("drafter"), named.device("target")) == ("cuda:0", "cuda:1")
    beside_a_cpu = override(Config(), models={"target": on_gpus | {"device": "cuda:1"}}).models
    assert beside_a_cpu.device("drafter") == "auto"
