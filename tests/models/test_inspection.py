"""`models inspect`: every golden layout, and a line for whatever is amiss; nothing is loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from app.commands.models import group  # noqa: E402
from models.errors import ModelError  # noqa: E402
from models.inspection import inspect_checkpoint  # noqa: E402
from models.towers import find_checkpoint  # noqa: E402
from tests.models.tiny import write_checkpoint  # noqa: E402

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden"
golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="../shared/golden is absent")


@golden
@pytest.mark.parametrize(
    ("folder", "role", "layout", "vocabulary"),
    [
        ("eventgpt/ckpt_A_full", "drafter", "official, 1 safetensors file", 320),
        ("eventgpt/ckpt_A_noclip", "drafter", "official, 3 safetensors files, CLIP from eventgpt/clip_A", 320),
        ("eventgpt/ckpt_A_bin", "drafter", "official, 1 bin file", 320),
        ("videollava/ckpt_A_hub", "target", "Hugging Face hub, 2 safetensors files", 384),
        ("videollava/ckpt_A_new", "target", "newer transformers, 1 safetensors file", 384),
        ("videollava/ckpt_A_inmem", "target", "transformers, names as in memory, 1 safetensors file", 384),
    ],
)
def test_golden_layouts(folder, role, layout, vocabulary):
    found = inspect_checkpoint(GOLDEN / folder)
    assert (found.role, found.layout, found.vocabulary) == (role, layout, vocabulary)
    assert found.comparison.complete
    assert list(found.dtypes) == ["float32"]
    assert found.parameters == {"drafter": 178_720, "target": 182_752}[role]
    assert json.loads(json.dumps(found.figures()))["complete"] is True


def test_missing_and_unexpected_tensors_are_listed(tmp_path):
    folder = write_checkpoint(tmp_path / "drafter", "drafter")
    tensors = load_file(folder / "model.safetensors")
    gone = [name for name in tensors if ".layers.1.mlp." in name]
    for name in gone:
        del tensors[name]
    tensors["model.extra.weight"] = torch.ones(1)
    tensors["lm_head.weight"] = torch.ones(3, 3)
    save_file(tensors, folder / "model.safetensors")
    result = CliRunner().invoke(group, ["inspect", str(folder), "--json"])
    figures = json.loads(result.stdout)
    assert result.exit_code == 1
    assert sorted(figures["missing"]) == sorted(gone)
    assert (figures["unexpected"], figures["wrong_shape"]) == (["model.extra.weight"], ["lm_head.weight"])
    shown = CliRunner().invoke(group, ["inspect", str(folder)])
    assert shown.exit_code == 1
    assert "model.extra.weight" in shown.stdout


def test_a_folders_name_is_no_markup(tmp_path):
    folder = write_checkpoint(tmp_path / "v1[" / "old]", "drafter")
    shown = CliRunner().invoke(group, ["inspect", str(folder)], env={"COLUMNS": "300"})
    assert shown.exit_code == 0, shown.exception
    assert str(folder) in shown.stdout
    shown = CliRunner().invoke(group, ["plan", "--gpu-memory", "24", "--drafter", str(folder.rename(tmp_path / "[b]"))])
    assert shown.exit_code == 0, shown.exception
    assert "│ [b] " in shown.stdout


def test_a_half_downloaded_shard_is_one_line(tmp_path):
    folder = write_checkpoint(tmp_path / "target", "target")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"^target/model\.safetensors: damaged safetensors file \(tensor .* is cut\)"):
        inspect_checkpoint(folder)
    shutil.move(weights, folder / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"^target/model-00002-of-00002\.safetensors: shard missing"):
        inspect_checkpoint(folder)


def test_a_hub_id_is_found_in_the_cache_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match=r"get it with: hf download Owner/Tiny-7B$"):
        find_checkpoint("Owner/Tiny-7B")
    with pytest.raises(ModelError, match="no such folder; name the folder of a checkpoint, or its hub id"):
        find_checkpoint("nothing/of/the/kind")
    repository = tmp_path / "models--Owner--Tiny-7B"
    snapshot = write_checkpoint(repository / "snapshots" / "abc", "target")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    assert find_checkpoint("Owner/Tiny-7B") == snapshot
    assert inspect_checkpoint(snapshot).role == "target"


@pytest.mark.parametrize("gigabytes", [8, 16, 24, 64, 141])
def test_the_plan_prints_configuration_that_is_valid(gigabytes, tmp_path):
    from app.config import load_config

    result = CliRunner().invoke(group, ["plan", "--gpu-memory", str(gigabytes)])
    assert result.exit_code == 0, result.output
    file = tmp_path / "planned.yaml"
    file.write_text("models:" + result.stdout.split("models:")[1])
    assert load_config(file).models.target.path.endswith("../exported/video-llava-7b-hf")
    figures = json.loads(CliRunner().invoke(group, ["plan", "--gpu-memory", str(gigabytes), "--json"]).stdout)
    assert len(figures["pairings"]) == 9
    assert (figures["best"] is None) == (gigabytes == 8)


def test_a_clip_that_its_checkpoint_does_not_describe(tmp_path):
    """Sizes come from the published ones where the tensors are inside; where they are not, the message says how."""
    folder = write_checkpoint(tmp_path / "drafter", "drafter")
    config = json.loads((folder / "config.json").read_text())
    del config["vision_config"]
    (folder / "config.json").write_text(json.dumps(config | {"mm_visual_tower": "/home/x/clip-vit-large-patch14-336"}))
    assert inspect_checkpoint(folder).sizes["vision"]["image_size"] == 336
    assert not inspect_checkpoint(folder).comparison.complete  # the tiny tower is no ViT-L, and that is seen
    (folder / "config.json").write_text(json.dumps(config | {"mm_visual_tower": "openai/unheard-of"}))
    with pytest.raises(ModelError, match="get it with: hf download openai/unheard-of"):
        inspect_checkpoint(folder)
