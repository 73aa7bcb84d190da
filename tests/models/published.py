"""The published 7B checkpoints: every tensor's name and shape, their configurations, and random ones of full size."""

from __future__ import annotations

import json
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from models.stored import DTYPE_BYTES, write_tensors

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


_LLAMA = {
    "hidden_size": D, "intermediate_size": INNER, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 32, "rms_norm_eps": 1e-5, "max_position_embeddings": 4096,
}  # fmt: skip
_CLIP = {
    "hidden_size": C, "intermediate_size": MLP, "num_hidden_layers": 24, "num_attention_heads": 16, "image_size": 224,
    "patch_size": 14, "hidden_act": "quick_gelu",
}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "eventgpt": {
        **_LLAMA,
        "model_type": "EventChat_llama",
        "vocab_size": 32000,
        "mm_visual_tower": "openai/clip-vit-large-patch14-336",
    },
    "port": {
        "model_type": "video_llava",
        "text_config": {**_LLAMA, "vocab_size": 32064},
        "vision_config": _CLIP,
        "vision_feature_layer": -2,
    },
}
_SHARD_BYTES = 5_000_000_000


def write_random(folder: Path, network: str) -> int:
    """A random float16 checkpoint of full size (about 14 GB) in the published layout: shards and an index.

    One tensor is in memory at a time. Returns the bytes of the tensors.
    """
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIGS[network]))
    tensors = {name: (_dtype(name), shape) for name, shape in published(network).items()}
    shards: list[list[str]] = [[]]
    total = used = 0
    for name, (dtype, shape) in tensors.items():
        size = prod(shape) * DTYPE_BYTES[dtype]
        if used + size > _SHARD_BYTES:
            shards.append([])
            used = 0
        shards[-1].append(name)
        used, total = used + size, total + size
    weight_map = {}
    for i, names in enumerate(shards):
        file = f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
        write_tensors(folder / file, {name: tensors[name] for name in names}, random_values(names, tensors))
        weight_map |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return total


def _dtype(name: str) -> str:
    return "I64" if name.endswith("position_ids") else "F32" if name.endswith("inv_freq") else "F16"


def random_values(names: list[str], tensors: dict[str, tuple[str, tuple[int, ...]]]) -> Iterator[NDArray[Any]]:
    """Weights that keep activations of order 1: norms 1, others as wide as their inputs allow; each tensor its own."""
    for name in names:
        dtype, shape = tensors[name]
        if dtype != "F16":
            yield np.arange(prod(shape)).reshape(shape).astype(np.float32 if dtype == "F32" else np.int64)
        elif len(shape) == 1 and name.endswith("weight"):
            yield np.ones(shape, np.float16)
        else:
            scale = 0.02 if len(shape) == 1 or "embed" in name else prod(shape[1:]) ** -0.5
            yield _random_halves(np.random.default_rng(crc32(name.encode())), shape, scale)


def _random_halves(random: np.random.Generator, shape: tuple[int, ...], scale: float) -> NDArray[np.float16]:
    """Values of either sign and about that size, by their bits: ten times as fast as drawing and rounding."""
    exponent = round(np.log2(scale / 1.5)) + 15  # values are ±[1, 2) · 2^(exponent - 15)
    bits = random.integers(0, 1 << 16, shape, np.uint16)
    bits &= 0x83FF  # sign and fraction
    bits |= exponent << 10
    return bits.view(np.float16)
