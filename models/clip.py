"""CLIP's vision tower (Radford et al. 2021), with the parameter names of transformers' CLIPVisionModel.

LanguageBind's variant for video (Zhu et al. 2023) puts an attention over time before each layer. The final
`post_layernorm` is not here: no model of ours reads anything after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from models.checkpoint import CheckpointError, setting
from models.llama import onnx_operator

ACTIVATIONS = ("quick_gelu", "gelu")


@dataclass(frozen=True)
class ClipConfig:
    """Sizes of a vision tower."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    image_size: int
    patch_size: int
    hidden_act: str
    layer_norm_eps: float

    @property
    def tokens(self) -> int:
        """Tokens a frame: the class token and the grid of patches."""
        return (self.image_size // self.patch_size) ** 2 + 1

    @classmethod
    def from_json(cls, config: Mapping[str, Any], where: str) -> ClipConfig:
        """From a vision_config; what it leaves out has transformers' default. Raises CheckpointError."""
        activation = setting(config, "hidden_act", "quick_gelu", str, where)
        if activation not in ACTIVATIONS:
            raise CheckpointError(
                f"{where}: hidden_act {activation!r} is not supported, only {' and '.join(ACTIVATIONS)}"
            )
        built = cls(
            hidden_size=setting(config, "hidden_size", 768, int, where),
            intermediate_size=setting(config, "intermediate_size", 3072, int, where),
            num_hidden_layers=setting(config, "num_hidden_layers", 12, int, where),
            num_attention_heads=setting(config, "num_attention_heads", 12, int, where),
            image_size=setting(config, "image_size", 224, int, where),
            patch_size=setting(config, "patch_size", 32, int, where),
            hidden_act=activation,
            layer_norm_eps=setting(config, "layer_norm_eps", 1e-5, float, where),
        )
        if built.hidden_size % built.num_attention_heads or built.image_size < built.patch_size:
            raise CheckpointError(
                f"{where}: the sizes of vision_config do not fit together; download the checkpoint again"
            )
        return built


class Embeddings(nn.Module):
    """Pixels to class token + patches, each with its learned position."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.class_embedding = nn.Parameter(torch.randn(config.hidden_size) * 0.02)
        self.patch_embedding = nn.Conv2d(3, config.hidden_size, config.patch_size, config.patch_size, bias=False)
        self.position_embedding = nn.Embedding(config.tokens, config.hidden_size)

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.patch_embedding(pixels).flatten(2).transpose(1, 2)  # [N, grid², C]
        first = self.class_embedding.expand(pixels.shape[0], 1, -1)
        return torch.cat([first, patches], 1) + self.position_embedding.weight


class Attention(nn.Module):
    """Bidirectional self-attention with biases."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.q_proj, self.k_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.v_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [N, H, tokens, Dh]
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        if torch.onnx.is_in_onnx_export():
            y = onnx_operator("Attention", (query, key, value), query)
        else:
            y = nn.functional.scaled_dot_product_attention(query, key, value)
        return cast(Tensor, self.out_proj(y.transpose(1, 2).flatten(2)))


class Mlp(nn.Module):
    """Two linear maps around CLIP's activation."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.quick = config.hidden_act == "quick_gelu"

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        x = x * torch.sigmoid(1.702 * x) if self.quick else nn.functional.gelu(x)
        return cast(Tensor, self.fc2(x))


class Layer(nn.Module):
    """One encoder layer, pre-norm."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.self_attn = Attention(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.mlp = Mlp(config)

    def forward(self, x: Tensor) -> Tensor:
        x = x + cast(Tensor, self.self_attn(self.layer_norm1(x)))
        return x + cast(Tensor, self.mlp(self.layer_norm2(x)))


class TemporalLayer(Layer):
    """LanguageBind's layer: every position first attends to itself in the window's other frames, then as in CLIP.

    The position in time is added to the residual stream itself, in every layer anew; there is no feed-forward of time.
    """

    def __init__(self, config: ClipConfig, frames: int) -> None:
        super().__init__(config)
        self.frames = frames
        self.temporal_embedding = nn.Parameter(torch.randn(1, frames, config.hidden_size) * config.hidden_size**-0.5)
        self.temporal_layer_norm1 = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.temporal_attn = Attention(config)

    def forward(self, x: Tensor) -> Tensor:
        """All frames of one window, [frames, tokens, C]. Raises ValueError for another number of frames."""
        if x.shape[0] != self.frames:
            raise ValueError(f"vision tower: {x.shape[0]} frames, but its attention over time needs {self.frames}")
        moments = x.transpose(0, 1) + self.temporal_embedding  # [tokens, frames, C]
        moments = moments + cast(Tensor, self.temporal_attn(self.temporal_layer_norm1(moments)))
        return super().forward(moments.transpose(0, 1))


class Encoder(nn.Module):
    """The stack of layers: a level of its own only because checkpoints name it."""

    def __init__(self, config: ClipConfig, temporal_frames: int | None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            TemporalLayer(config, temporal_frames) if temporal_frames else Layer(config)
            for _ in range(config.num_hidden_layers)
        )


class ClipVision(nn.Module):
    """The tower; with `temporal_frames`, LanguageBind's, whose N is that number."""

    def __init__(self, config: ClipConfig, temporal_frames: int | None = None) -> None:
        super().__init__()
        self.config, self.temporal_frames = config, temporal_frames
        self.embeddings = Embeddings(config)
        self.pre_layrnorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)  # so misspelt in every checkpoint
        self.encoder = Encoder(config, temporal_frames)

    def forward(self, pixels: Tensor, layers: int | None = None) -> list[Tensor]:
        """Pixels [N, 3, H, W] to states [N, tokens, C]: the embeddings', then one after each of the first `layers`."""
        states = [self.pre_layrnorm(self.embeddings(pixels))]
        for layer in self.encoder.layers[:layers]:
            states.append(layer(states[-1]))
        return states
