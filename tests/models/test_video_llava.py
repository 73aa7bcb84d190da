"""Video-LLaVA against transformers' outputs (../shared/golden), in every published layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
torch.set_num_threads(1)  # tests share their cores; spinning threads would fight over them

from models.video_llava import VideoLlava  # noqa: E402
from tests.models.greedy import greedy  # noqa: E402

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden" / "videollava"
pytestmark = pytest.mark.skipif(not GOLDEN.is_dir(), reason="../shared/golden is absent")
VIDEO = 321


def close(ours, golden):
    np.testing.assert_allclose(ours.detach().numpy(), golden, atol=1e-4, rtol=0)


@pytest.mark.parametrize("layout", ["ckpt_A_new", "ckpt_A_hub", "ckpt_A_inmem"])
def test_every_stage_matches(layout):
    model = VideoLlava.load(GOLDEN / layout)
    golden = np.load(GOLDEN / "golden_A.npz")
    pixels = torch.from_numpy(golden["pixel_values_videos"])[0]
    with torch.no_grad():
        close(model.vision.video_tower(pixels)[-2], golden["vision_selected_hidden"])
        close(model.vision.features(pixels), golden["video_features"])
        video = model.vision(pixels)
        assert len(video) == model.visual_tokens
        for k in (0, 1):
            ids = golden[f"prompt{k}_ids"].ravel()
            embeddings = model.decoder.embed(torch.from_numpy(ids)).clone()
            embeddings[torch.from_numpy(ids == VIDEO)] = video
            close(embeddings, golden[f"prompt{k}_inputs_embeds"].reshape(embeddings.shape))
            close(model.decoder.lm_head(model.decoder.hidden(embeddings[None])), golden[f"prompt{k}_logits"])
            tokens, logits = greedy(model.decoder, embeddings, 24)
            assert tokens == golden[f"prompt{k}_greedy"].ravel().tolist()
            close(logits, golden[f"prompt{k}_step_logits"].reshape(logits.shape))
