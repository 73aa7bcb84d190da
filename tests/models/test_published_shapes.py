"""The 7B networks on the meta device, key by key and shape by shape against the published architecture."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from models.checkpoint import compare  # noqa: E402
from models.eventgpt import NAMES as EVENTGPT  # noqa: E402
from models.eventgpt import EventGPT  # noqa: E402
from models.memory_plan import EVENTGPT_7B, VIDEO_LLAVA_7B  # noqa: E402
from models.networks import NETWORKS  # noqa: E402
from models.prompts import PROMPTS  # noqa: E402
from models.video_llava import NAMES as PORT  # noqa: E402
from models.video_llava import ORIGINAL_NAMES, VideoLlava  # noqa: E402

D, INNER, C, MLP = 4096, 11008, 1024, 4096


def linear(name: str, out: int, into: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def norm(name: str) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (C,), f"{name}.bias": (C,)}


def llama(body: str, head: str, vocabulary: int) -> dict[str, tuple[int, ...]]:
    """Vicuna-7B-v1.5: 32 layers."""
    shapes: dict[str, tuple[int, ...]] = {
        f"{body}embed_tokens.weight": (vocabulary, D),
        f"{body}norm.weight": (D,),
        f"{head}lm_head.weight": (vocabulary, D),
    }
    for i in range(32):
        layer = f"{body}layers.{i}."
        shapes |= {f"{layer}self_attn.{name}_proj.weight": (D, D) for name in "qkvo"}
        shapes |= {f"{layer}mlp.{name}_proj.weight": (INNER, D) for name in ("gate", "up")}
        shapes |= {f"{layer}mlp.down_proj.weight": (D, INNER), f"{layer}input_layernorm.weight": (D,)}
        shapes |= {f"{layer}post_attention_layernorm.weight": (D,)}
        shapes |= {f"{layer}self_attn.rotary_emb.inv_freq": (64,)}  # in older files; nothing reads it
    return shapes


def clip(prefix: str, tokens: int, temporal: bool = False) -> dict[str, tuple[int, ...]]:
    """CLIP ViT-L/14: 24 layers; LanguageBind's with attention over eight frames."""
    shapes: dict[str, tuple[int, ...]] = {
        f"{prefix}embeddings.class_embedding": (C,),
        f"{prefix}embeddings.patch_embedding.weight": (C, 3, 14, 14),
        f"{prefix}embeddings.position_embedding.weight": (tokens, C),
        f"{prefix}embeddings.position_ids": (1, tokens),
        **norm(f"{prefix}pre_layrnorm"),
        **norm(f"{prefix}post_layernorm"),
    }
    for i in range(24):
        layer = f"{prefix}encoder.layers.{i}."
        shapes |= norm(f"{layer}layer_norm1") | norm(f"{layer}layer_norm2")
        shapes |= linear(f"{layer}mlp.fc1", MLP, C) | linear(f"{layer}mlp.fc2", C, MLP)
        for attention in ("self_attn", *(["temporal_attn"] if temporal else [])):
            for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
                shapes |= linear(f"{layer}{attention}.{name}", C, C)
        if temporal:
            shapes |= norm(f"{layer}temporal_layer_norm1") | {f"{layer}temporal_embedding": (1, 8, C)}
    return shapes


def published(network: str) -> dict[str, tuple[int, ...]]:
    if network == "eventgpt":
        return (
            llama("model.", "", 32000)
            | clip("model.visual_tower.visual_tower.vision_model.", 577)
            | linear("model.visual_projector.0", D, C)
            | linear("model.visual_projector.2", D, D)
            | linear("model.feature_adaptor", D, D)
        )
    if network == "port":
        return (
            llama("language_model.model.", "language_model.", 32064)
            | clip("video_tower.vision_model.", 257)
            | clip("image_tower.vision_model.", 257)
            | linear("multi_modal_projector.linear_1", D, C)
            | linear("multi_modal_projector.linear_2", D, D)
        )
    return (
        llama("model.", "", 32000)
        | clip("model.video_tower.video_tower.", 257, temporal=True)
        | clip("model.image_tower.image_tower.", 257)
        | linear("model.mm_projector.0", D, C)
        | linear("model.mm_projector.2", D, D)
    )


@pytest.mark.parametrize(
    ("network", "names", "parameters"),
    [("eventgpt", EVENTGPT, 7_079_682_048), ("port", PORT, 7_063_097_344), ("original", ORIGINAL_NAMES, 7_163_580_416)],
)
def test_every_key_and_shape(network, names, parameters):
    with torch.device("meta"):
        if network == "eventgpt":
            model = EventGPT(EVENTGPT_7B.clip, EVENTGPT_7B.llama)
        elif network == "port":
            model = VideoLlava(VIDEO_LLAVA_7B.clip, VIDEO_LLAVA_7B.llama)
        else:
            model = VideoLlava(VIDEO_LLAVA_7B.clip, EVENTGPT_7B.llama, 8)
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    result = compare(expected, published(network), names)
    assert (result.missing, result.unexpected, result.wrong_shape) == ([], [], [])
    assert set(result.found) == set(expected)
    read_by_nothing = ("post_layernorm", "position_ids", "inv_freq", "image_tower")
    assert all(any(part in name for part in read_by_nothing) for name in result.unused)
    assert sum(value.numel() for value in model.parameters()) == parameters
    assert model.visual_tokens == (582 if network == "eventgpt" else 2056)


@pytest.mark.parametrize(("network", "names"), [("eventgpt", EVENTGPT), ("port", PORT), ("original", ORIGINAL_NAMES)])
def test_nothing_is_lost_on_the_way(network, names):
    """Each published name has one of ours, and no two share it."""
    ours = [names.ours(name) for name in published(network)]
    kept = [name for name in ours if name]
    assert len(kept) == len(set(kept))


def test_every_network_has_its_prompt():
    assert set(PROMPTS) == set(NETWORKS)
