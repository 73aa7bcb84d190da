"""What is wrong with a checkpoint is said in one line; good ones of both shapes load."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
torch.set_num_threads(1)  # tests share their cores; spinning threads would fight over them

from safetensors.torch import load_file, save_file  # noqa: E402

from models.checkpoint import CheckpointError  # noqa: E402
from models.clip import ClipConfig  # noqa: E402
from models.errors import ModelError  # noqa: E402
from models.eventgpt import EventGPT  # noqa: E402
from models.llama import LlamaConfig  # noqa: E402
from models.networks import network_of  # noqa: E402
from models.video_llava import NAMES, VideoLlava  # noqa: E402

TEXT = {
    "vocab_size": 24,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
VISION = {
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A tiny Video-LLaVA checkpoint in the hub's layout."""
    folder = tmp_path / "target"
    folder.mkdir()
    config = {"model_type": "video_llava", "text_config": TEXT, "vision_config": VISION}
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    model = VideoLlava(ClipConfig.from_json(VISION, ""), LlamaConfig.from_json(TEXT, ""))
    save_file({NAMES.published(k, []): v for k, v in model.state_dict().items()}, folder / "model.safetensors")
    return folder


def change(folder: Path, edit) -> None:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors")


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        VideoLlava.load(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_loads(target):
    model = VideoLlava.load(target)
    assert model.visual_tokens == 8 * 5


def test_unused_tensors_may_be_there_or_not(target):
    extra = {
        "image_tower.vision_model.whatever": torch.ones(1),
        "video_tower.vision_model.post_layernorm.bias": torch.ones(8),
    }
    change(target, lambda tensors: tensors.update(extra))
    VideoLlava.load(target)


def test_missing_tensor(target):
    name = "language_model.model.layers.0.mlp.up_proj.weight"
    change(target, lambda tensors: tensors.pop(name))
    assert refusal(target) == f"target/model.safetensors: missing tensor {name}; download the checkpoint again"


def test_several_missing_tensors_are_counted(target):
    names = [f"language_model.model.layers.0.self_attn.{part}_proj.weight" for part in "qkv"]
    change(target, lambda tensors: [tensors.pop(name) for name in names])
    assert f"missing tensor {names[0]} and 2 more ({names[1]}, {names[2]})" in refusal(target)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(target, value):
    name = "video_tower.vision_model.encoder.layers.0.mlp.fc1.weight"
    change(target, lambda tensors: tensors[name].view(-1)[5].fill_(value))
    assert refusal(target) == (
        f"target/model.safetensors: tensor {name} holds NaN or infinite values; download the checkpoint again"
    )


def test_the_wrong_model_in_a_role(target):
    with pytest.raises(
        CheckpointError, match=r"target/config\.json: model_type is 'video_llava', not 'EventChat_llama'"
    ):
        EventGPT.load(target)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickled_checkpoint_of_either_form_loads_and_a_cut_one_does_not(target, zipped):
    weights = target / "pytorch_model.bin"
    torch.save(load_file(target / "model.safetensors"), weights, _use_new_zipfile_serialization=zipped)
    (target / "model.safetensors").unlink()
    VideoLlava.load(target)
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    assert refusal(target).startswith("target/pytorch_model.bin: ")


def test_a_model_type_that_is_no_name(target):
    (target / "config.json").write_text('{"model_type": ["video_llava"]}')
    with pytest.raises(ModelError, match=r"model_type is \['video_llava'\]; EventChat_llama or .* can be used"):
        network_of(target)


def test_unexpected_tensor(target):
    change(target, lambda tensors: tensors.update({"video_tower.temporal_embedding": torch.ones(1)}))
    assert "unexpected tensor video_tower.temporal_embedding" in refusal(target)


def test_wrong_shape(target):
    change(target, lambda tensors: tensors.update({"language_model.lm_head.weight": torch.ones(3, 16)}))
    assert "language_model.lm_head.weight has shape [3, 16], config.json asks for [24, 16]" in refusal(target)


def test_damaged_files(target):
    weights = target / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert refusal(target).startswith("target/model.safetensors: damaged")
    weights.unlink()
    assert "no model.safetensors or pytorch_model.bin" in refusal(target)
    (target / "config.json").write_text("{")
    assert refusal(target).startswith("target/config.json: not readable as JSON")
    (target / "config.json").unlink()
    assert refusal(target).startswith("target/config.json: no such file")


def test_a_missing_shard_is_named(target):
    shutil.move(target / "model.safetensors", target / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    index = target / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": shards}))
    assert refusal(target).startswith("target/model-00002-of-00002.safetensors: shard missing")
    index.write_text(json.dumps({"weight_map": {"a": "../elsewhere.safetensors"}}))
    assert "names '../elsewhere.safetensors'" in refusal(target)


def test_a_pickle_that_runs_code_is_refused(target, tmp_path):
    class Payload:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    (target / "model.safetensors").unlink()
    (target / "pytorch_model.bin").write_bytes(pickle.dumps({"a": Payload()}))
    assert refusal(target).startswith("target/pytorch_model.bin: ")
    torch.save({"a": Payload()}, target / "pytorch_model.bin")
    assert refusal(target).startswith("target/pytorch_model.bin: ")
    assert not (tmp_path / "ran").exists()
