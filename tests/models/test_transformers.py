"""Another seed and other sizes than the golden files': a checkpoint and its outputs written by transformers itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from models import parity  # noqa: E402

VIDEO = 101


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A random Video-LLaVA of transformers, saved by it, with `golden.npz` beside: fewer key heads than query heads."""
    text = transformers.LlamaConfig(
        vocab_size=112, hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, rms_norm_eps=1e-5, max_position_embeddings=512, initializer_range=0.3,
    )  # fmt: skip
    vision = transformers.CLIPVisionConfig(
        hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3, image_size=28, patch_size=14,
        initializer_range=0.3,
    )  # fmt: skip
    config = transformers.VideoLlavaConfig(
        vision_config=vision, text_config=text, image_token_index=100, video_token_index=VIDEO
    )
    torch.manual_seed(7)
    model = transformers.VideoLlavaForConditionalGeneration(config).eval()
    with torch.no_grad():
        model.get_output_embeddings().weight[100:] = 0  # the official code cannot be given a second <video>
    folder = tmp_path / "checkpoint"
    model.save_pretrained(folder)
    pixels = torch.randn(1, 8, 3, 28, 28)
    ids = torch.tensor([[1, 9, 17, *[VIDEO] * 40, 33, 60, 5]])
    with torch.no_grad():
        out = model(input_ids=ids, pixel_values_videos=pixels)
        features = model.model.get_video_features(pixels).pooler_output
        greedy, following = [], ids
        for _ in range(6):
            greedy.append(int(model(input_ids=following, pixel_values_videos=pixels).logits[0, -1].argmax()))
            following = torch.cat([following, torch.tensor([greedy[-1:]])], 1)
    np.savez(
        tmp_path / "golden.npz",
        pixel_values_videos=pixels.numpy(),
        video_features=features.reshape(8, 5, 48).numpy(),
        prompt0_ids=ids[0].numpy(),
        prompt0_logits=out.logits.numpy(),
        prompt0_greedy=np.array(greedy),
    )
    return folder


def test_every_stage_is_transformers_own(checkpoint: Path) -> None:
    found = parity.compare(checkpoint, checkpoint.parent / "golden.npz")
    assert list(found) == ["video_features", "prompt0_logits", "prompt0_greedy"]
    for stage, differences in found.items():
        assert all(parity.within(stage, difference) for difference in differences), (stage, differences)
