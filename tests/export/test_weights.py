"""The weights beside the graphs: none rounded unseen, none written where there is no room."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from export.weights import bring_weights, find_weights
from models.checkpoint import CheckpointError
from models.errors import ModelError
from models.inspection import headers
from models.networks import network_of
from models.stored import StoredTensor, stored_tensors
from tests.models.tiny import write_checkpoint

Usage = namedtuple("Usage", "total used free")


def bring(checkpoint: Path, folder: Path) -> dict[str, StoredTensor]:
    network, stored = network_of(checkpoint), headers(checkpoint)
    model, tower = network.blueprint(checkpoint, stored, torch.float32)
    sources = find_weights(model, checkpoint, stored, tower, network.names)
    folder.mkdir(exist_ok=True)
    return bring_weights(checkpoint, sources, network.names, folder, in_place=False)


@pytest.fixture
def pickled(tmp_path: Path) -> Path:
    """A drafter's checkpoint as a .bin whose tensors are of many types."""
    folder = write_checkpoint(tmp_path / "drafter", "drafter")
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    kinds = {"lm_head.weight": torch.bfloat16, "model.norm.weight": torch.float32, "model.embed_tokens.weight": None}
    for name, kind in kinds.items():
        tensors[name] = tensors[name].to(kind or torch.float64)
    torch.save(tensors, folder / "pytorch_model.bin")
    return folder


def test_each_tensor_keeps_its_own_precision(pickled: Path, tmp_path: Path) -> None:
    weights = bring(pickled, tmp_path / "out")
    kinds = {name: weights[f"decoder.{name}.weight"].dtype for name in ("lm_head", "model.norm", "model.embed_tokens")}
    assert kinds == {"lm_head": "BF16", "model.norm": "F32", "model.embed_tokens": "F32"}  # float64 is not computed in
    assert weights["decoder.model.layers.0.mlp.up_proj.weight"].dtype == "F16"
    assert set(stored_tensors(tmp_path / "out/model.safetensors")) == {tensor.name for tensor in weights.values()}


def test_a_value_that_becomes_infinite_is_refused(pickled: Path, tmp_path: Path) -> None:
    tensors = torch.load(pickled / "pytorch_model.bin")
    tensors["model.embed_tokens.weight"][3, 5] = 1e300
    torch.save(tensors, pickled / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"tensor model\.embed_tokens\.weight holds NaN or infinite values"):
        bring(pickled, tmp_path / "out")


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_a_full_disk_is_seen_before_anything_is_written(
    form: str, pickled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = pickled if form == "bin" else write_checkpoint(tmp_path / "whole", "drafter")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(0, 0, 1000))
    with pytest.raises(
        ModelError, match=r"the weights need .* GB of disk, 0\.0 GB are free; free some, or name an OUT"
    ):
        bring(checkpoint, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
