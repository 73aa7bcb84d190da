"""The original Video-LLaVA: .bin shards, its own key names, attention over time against an independent computation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from export.checkpoint import export_checkpoint  # noqa: E402
from models.checkpoint import CheckpointError  # noqa: E402
from models.clip import ClipConfig  # noqa: E402
from models.inspection import inspect_checkpoint  # noqa: E402
from models.llama import LlamaConfig  # noqa: E402
from models.runtimes.onnx import OnnxVision  # noqa: E402
from models.video_llava import ORIGINAL_NAMES, VideoLlava  # noqa: E402

TEXT = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
VISION = {
    "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 16,
    "patch_size": 8, "hidden_act": "gelu",
}  # fmt: skip
TOWER = "model.video_tower.video_tower."


def write(folder: Path, temporal: int | None = 8) -> Path:
    """A small checkpoint as the authors publish theirs: two pickled shards, the tower described in a folder beside."""
    folder.mkdir()
    config = {
        **TEXT,
        "model_type": "llava",
        "mm_video_tower": "LanguageBind/LanguageBind_Video_merge",
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -2,
        "mm_use_im_start_end": False,
    }
    (folder / "config.json").write_text(json.dumps(config))
    beside = folder.parent / "LanguageBind_Video_merge"
    beside.mkdir(exist_ok=True)
    (beside / "config.json").write_text(json.dumps({"vision_config": {**VISION, "num_frames": 8}}))
    torch.manual_seed(0)
    model = VideoLlava(ClipConfig.from_json(VISION, ""), LlamaConfig.from_json(TEXT, ""), temporal)
    torch.manual_seed(1)
    state = {ORIGINAL_NAMES.published(k, []): torch.randn(v.shape) / 2 for k, v in model.state_dict().items()}
    state["model.image_tower.image_tower.embeddings.class_embedding"] = torch.ones(8)
    state[TOWER + "post_layernorm.weight"] = torch.ones(8)
    names = sorted(state)
    shards = {f"pytorch_model-0000{i + 1}-of-00002.bin": names[i::2] for i in range(2)}
    for file, part in shards.items():
        torch.save({name: state[name] for name in part}, folder / file)
    index = {"weight_map": {name: file for file, part in shards.items() for name in part}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return folder


def reference_hidden(state: dict[str, torch.Tensor], pixels: torch.Tensor, temporal: bool) -> torch.Tensor:
    """hidden_states[-2] of LanguageBind's tower in plain arithmetic, position by position, without our modules."""

    def norm(x, name):
        mean, variance = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
        return (x - mean) / (variance + 1e-5).sqrt() * state[TOWER + name + ".weight"] + state[TOWER + name + ".bias"]

    def linear(x, name):
        return x @ state[TOWER + name + ".weight"].T + state[TOWER + name + ".bias"]

    def attend(x, name):  # [rows, C], two heads of four
        q, k, v = (linear(x, f"{name}.{part}_proj") for part in "qkv")
        heads = []
        for h in (slice(0, 4), slice(4, 8)):
            scores = torch.softmax(q[:, h] @ k[:, h].T / 4**0.5, -1)
            heads.append(scores @ v[:, h])
        return linear(torch.cat(heads, -1), f"{name}.out_proj")

    frames = []
    for image in pixels:
        kernel = state[TOWER + "embeddings.patch_embedding.weight"].flatten(1)
        patches = [image[:, y : y + 8, x : x + 8].flatten() @ kernel.T for y in (0, 8) for x in (0, 8)]
        tokens = torch.stack([state[TOWER + "embeddings.class_embedding"], *patches])
        frames.append(norm(tokens + state[TOWER + "embeddings.position_embedding.weight"], "pre_layrnorm"))
    x = torch.stack(frames)  # [8, 5, C]
    for layer in (f"encoder.layers.{i}" for i in range(2)):  # the last of three is never run
        if temporal:
            for position in range(x.shape[1]):
                series = x[:, position] + state[f"{TOWER}{layer}.temporal_embedding"][0]
                x[:, position] = series + attend(
                    norm(series, f"{layer}.temporal_layer_norm1"), f"{layer}.temporal_attn"
                )
        for t in range(len(x)):
            y = x[t] + attend(norm(x[t], f"{layer}.layer_norm1"), f"{layer}.self_attn")
            inner = linear(norm(y, f"{layer}.layer_norm2"), f"{layer}.mlp.fc1")
            x[t] = y + linear(torch.nn.functional.gelu(inner), f"{layer}.mlp.fc2")
    return x


def stored(folder: Path) -> dict[str, torch.Tensor]:
    parts = (torch.load(file, weights_only=True) for file in sorted(folder.glob("*.bin")))
    return {name: value for part in parts for name, value in part.items()}


@pytest.mark.parametrize("temporal", [8, None])
def test_the_tower_equals_a_reference_computation(tmp_path, temporal):
    folder = write(tmp_path / "original", temporal)
    model = VideoLlava.load(folder)
    assert model.vision.video_tower.temporal_frames == temporal
    pixels = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        hidden = model.vision.video_tower(pixels, 2)[-1]
        torch.testing.assert_close(hidden, reference_hidden(stored(folder), pixels, bool(temporal)), atol=1e-4, rtol=0)


def test_attention_over_time_is_not_dropped(tmp_path):
    """The same weights with and without it give other features; with it a frame's features depend on the others."""
    folder = write(tmp_path / "original")
    model, pixels = VideoLlava.load(folder), torch.randn(8, 3, 16, 16)
    with_time = stored(folder)
    without = VideoLlava(ClipConfig.from_json(VISION, ""), LlamaConfig.from_json(TEXT, ""))
    without.load_state_dict({ORIGINAL_NAMES.ours(k): v for k, v in with_time.items() if "temporal" not in k and
                             ORIGINAL_NAMES.ours(k)})  # fmt: skip
    with torch.no_grad():
        assert (model.vision(pixels) - without.vision(pixels)).abs().max() > 0.1
        changed = pixels.clone()
        changed[7] += 1
        assert (model.vision.features(pixels)[0] - model.vision.features(changed)[0]).abs().max() > 1e-3
        with pytest.raises(ValueError, match="4 frames, but its attention over time needs 8"):
            model.vision(pixels[:4])


def test_it_is_inspected_and_exported(tmp_path):
    folder = write(tmp_path / "original")
    found = inspect_checkpoint(folder)
    assert (found.title, found.role, found.temporal_frames) == ("Video-LLaVA (original)", "target", 8)
    assert found.layout == "original, 2 bin files"
    assert found.comparison.complete
    assert len(found.comparison.unused) == 2
    manifest = export_checkpoint(folder, tmp_path / "out", 64, report=lambda line: None)
    assert (manifest["network"], manifest["visual_tokens"]) == ("llava", 40)
    pixels = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    tokens = OnnxVision(tmp_path / "out" / "vision.onnx").encode(pixels.numpy(), 1)
    with torch.no_grad():
        np.testing.assert_allclose(tokens, VideoLlava.load(tmp_path / "out").vision(pixels).numpy(), rtol=0, atol=1e-4)


def test_what_only_looks_like_it_is_refused(tmp_path):
    folder = write(tmp_path / "original")
    config = json.loads((folder / "config.json").read_text())

    def refusal(**changes) -> str:
        changed = {key: value for key, value in (config | changes).items() if value is not None}
        (folder / "config.json").write_text(json.dumps(changed))
        with pytest.raises(CheckpointError) as error:
            VideoLlava.load(folder)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "model_type is 'llava', not 'video_llava' (or 'llava' with mm_video_tower)" in refusal(mm_video_tower=None)
    assert "mm_projector_type 'linear' is not supported" in refusal(mm_projector_type="linear")
    assert "get it with: hf download Nobody/Tower" in refusal(mm_video_tower="Nobody/Tower")
    short = write(tmp_path / "short", 4)
    with pytest.raises(CheckpointError, match="attention over 4 frames is not supported"):
        VideoLlava.load(short)
