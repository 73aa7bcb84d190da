"""EventGPT against the official code's outputs (../shared/golden)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
torch.set_num_threads(1)  # tests share their cores; spinning threads would fight over them

from models.checkpoint import CheckpointError  # noqa: E402
from models.eventgpt import EventGPT  # noqa: E402
from tests.models.greedy import greedy  # noqa: E402

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden" / "eventgpt"
pytestmark = pytest.mark.skipif(not GOLDEN.is_dir(), reason="../shared/golden is absent")


def close(ours, golden):
    np.testing.assert_allclose(ours.detach().numpy(), golden, atol=1e-4, rtol=0)


@pytest.fixture(scope="module")
def model():
    return EventGPT.load(GOLDEN / "ckpt_A_full")


@pytest.mark.parametrize("recording", ["overlap", "sparse"])
def test_every_stage_matches(model, recording):
    golden = np.load(GOLDEN / f"golden_A_{recording}.npz")
    pixels = torch.from_numpy(golden["pixel_values"])
    with torch.no_grad():
        hidden = model.vision.visual_tower(pixels)[-1]
        projected = model.vision.visual_projector(hidden)
        pooled = model.vision(pixels)
        close(hidden, golden["clip_last_hidden_state"])
        close(projected, golden["projector_out"])
        close(model.vision.feature_adaptor(projected), golden["adaptor_out"])
        close(pooled, golden["pooled"])
        assert len(pooled) == model.visual_tokens
        for k in (0, 1):
            ids = golden[f"prompt{k}_ids"].ravel()
            cut = int(np.flatnonzero(ids == -200)[0])
            before, after = (model.decoder.embed(torch.from_numpy(part)) for part in (ids[:cut], ids[cut + 1 :]))
            embeddings = torch.cat([before, pooled, after])
            close(embeddings[None], golden[f"prompt{k}_inputs_embeds"].reshape(1, *embeddings.shape))
            close(model.decoder.lm_head(model.decoder.hidden(embeddings[None])), golden[f"prompt{k}_logits"])
            tokens, logits = greedy(model.decoder, embeddings, 24)
            assert tokens == golden[f"prompt{k}_greedy"].ravel().tolist()
            close(logits, golden[f"prompt{k}_step_logits"].reshape(logits.shape))


@pytest.mark.parametrize("layout", ["ckpt_A_noclip", "ckpt_A_bin"])
def test_layouts_load_the_same_weights(model, layout):
    other = EventGPT.load(GOLDEN / layout).state_dict()
    assert all(torch.equal(tensor, other[name]) for name, tensor in model.state_dict().items())


def test_foreign_model_type_is_refused():
    with pytest.raises(CheckpointError, match=r"ckpt_A_new/config\.json: model_type is 'video_llava'"):
        EventGPT.load(GOLDEN.parent / "videollava" / "ckpt_A_new")


@pytest.mark.parametrize("clip", ["clip_A", "clip_A_bin"])
@pytest.mark.parametrize("named", ["./{}", "/home/trainer/towers/{}"])
def test_the_tower_comes_from_the_folder_that_is_named(model, tmp_path, clip, named):
    """Relative to the checkpoint or beside it, also when the name is a path of the machine it was trained on."""
    shutil.copytree(GOLDEN / "ckpt_A_noclip", tmp_path / "checkpoint", copy_function=shutil.copyfile)
    (tmp_path / "checkpoint").chmod(0o755)
    shutil.copytree(GOLDEN / clip, tmp_path / clip, copy_function=shutil.copyfile)
    config = json.loads((tmp_path / "checkpoint/config.json").read_text())
    (tmp_path / "checkpoint/config.json").write_text(json.dumps(config | {"mm_visual_tower": named.format(clip)}))
    other = EventGPT.load(tmp_path / "checkpoint").state_dict()
    assert all(torch.equal(tensor, other[name]) for name, tensor in model.state_dict().items())


def test_a_prompt_that_is_another_is_refused(tmp_path):
    config = json.loads((GOLDEN / "ckpt_A_full/config.json").read_text())
    shutil.copyfile(GOLDEN / "ckpt_A_full/model.safetensors", tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config | {"mm_use_im_start_end": True}))
    with pytest.raises(CheckpointError, match="mm_use_im_start_end is not supported"):
        EventGPT.load(tmp_path)
