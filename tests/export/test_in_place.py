"""An export inside its checkpoint: the checkpoint's own files stay, what an earlier export brought never does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from export.checkpoint import export_checkpoint
from export.folder import move
from export.weights import BROUGHT
from models.bundle import load_model
from models.clip import ClipConfig
from models.errors import ModelError
from models.eventgpt import TOWER
from models.manifest import MANIFEST
from models.stored import stored_tensors
from tests.models.tiny import CLIP, write_checkpoint


def quiet(line: str) -> None:
    """Who exports here needs no report."""


def split(checkpoint: Path, clip: Path, seed: int) -> None:
    """The weights of that seed as official ones lie: float16 in a .bin, a float32 tower in a CLIP folder beside."""
    whole = load_file(write_checkpoint(checkpoint.parent / f"seed-{seed}", "drafter", seed) / "model.safetensors")
    torch.save({name: value for name, value in whole.items() if TOWER not in name}, checkpoint / "pytorch_model.bin")
    tower = {name.removeprefix(TOWER): value for name, value in whole.items() if TOWER in name}
    # float32 values that float16 has not: rounding them would show in the parity check
    save_file({name: value.float() * 1.001 for name, value in tower.items()}, clip / "model.safetensors")


@pytest.mark.usefixtures("graphs_traced_once")
def test_a_second_export_has_the_weights_of_today_and_each_in_its_precision(tmp_path: Path) -> None:
    """Pickled float16 weights, a float32 CLIP beside: what is written is not taken for the checkpoint's own later."""
    folder, clip = write_checkpoint(tmp_path / "drafter", "drafter"), tmp_path / "clip"
    (folder / "model.safetensors").unlink()
    clip.mkdir()
    (clip / "config.json").write_text(json.dumps(CLIP))
    config = json.loads((folder / "config.json").read_text())
    del config["vision_config"]
    (folder / "config.json").write_text(json.dumps(config | {"mm_visual_tower": str(clip)}))
    for seed in (1, 2):
        split(folder, clip, seed)
        manifest = export_checkpoint(folder, folder, 160, report=quiet)
        assert list(manifest["weights"]) == [BROUGHT]
        assert not (folder / "model.safetensors").exists()
        assert max(manifest["parity"].values()) <= 1e-4
        stored = stored_tensors(folder / BROUGHT)
        assert {tensor.dtype for name, tensor in stored.items() if name.startswith(TOWER)} == {"F32"}
        assert {tensor.dtype for name, tensor in stored.items() if not name.startswith(TOWER)} == {"F16"}
        for name, value in torch.load(folder / "pytorch_model.bin").items():
            np.testing.assert_array_equal(stored[name].map(), value.numpy())
        load_model(folder, "drafter")


def test_what_an_earlier_export_brought_is_replaced_or_removed(tmp_path: Path) -> None:
    checkpoint, folder = tmp_path / "checkpoint", tmp_path / "finished"
    for place, names in (
        (checkpoint, ("model.safetensors", "decoder.onnx", BROUGHT, "decoder.int8.safetensors", MANIFEST)),
        (folder, ("model.safetensors", "decoder.onnx", "decoder.int4.safetensors", MANIFEST)),
    ):
        place.mkdir()
        for name in names:
            (place / name).write_text(place.name)
    move(folder, checkpoint, checkpoint, ClipConfig(**CLIP))  # type: ignore[arg-type]
    assert {file.name: file.read_text() for file in checkpoint.iterdir()} == {
        "model.safetensors": "checkpoint",
        "decoder.onnx": "finished",
        "decoder.int4.safetensors": "finished",
        MANIFEST: "finished",
    }


def test_weights_that_are_links_need_another_out(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "snapshot", "drafter")
    (folder / "model.safetensors").rename(tmp_path / "blob")
    (folder / "model.safetensors").symlink_to(tmp_path / "blob")
    before = {file.name for file in folder.iterdir()}
    with pytest.raises(ModelError, match=r"its weights are links, as in the hub's cache, .*; name another OUT"):
        export_checkpoint(folder, folder, 160, report=quiet)
    assert {file.name for file in folder.iterdir()} == before
