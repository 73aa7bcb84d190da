"""The Llama decoder of both models: one forward pass for prefill, a prefill chunk, one-token decode and verification.

Numerics are those of transformers' LlamaForCausalLM; parameter names are those of published checkpoints. Under ONNX
export the cache update, the attention, the rotation and the norm become one operator each (opset 24).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from models.checkpoint import CheckpointError, setting

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]  # query [1,H,T,Dh], key, value [1,Hkv,S,Dh] -> [1,H,T,Dh]
OPSET = 24


@dataclass(frozen=True)
class LlamaConfig:
    """Sizes of a decoder."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    max_position_embeddings: int

    @classmethod
    def from_json(cls, config: Mapping[str, Any], where: str) -> LlamaConfig:
        """From a config.json (or its text_config); what it leaves out has transformers' default.

        Raises CheckpointError for sizes that do not fit together and for variants this decoder does not compute.
        """
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        if not isinstance(rope, Mapping):
            raise CheckpointError(f"{where}: rope_scaling is {rope!r}, not an object; download the checkpoint again")
        kind = rope.get("rope_type", rope.get("type", "default"))
        for name, value, wanted in (
            ("rope type", kind, "default"),
            ("hidden_act", config.get("hidden_act", "silu"), "silu"),
            ("attention_bias", bool(config.get("attention_bias")), False),
            ("mlp_bias", bool(config.get("mlp_bias")), False),
            ("tie_word_embeddings", bool(config.get("tie_word_embeddings")), False),
        ):
            if value != wanted:
                raise CheckpointError(
                    f"{where}: {name} {value!r} is not supported, only {wanted!r}; use another checkpoint"
                )
        hidden = setting(config, "hidden_size", 4096, int, where)
        heads = setting(config, "num_attention_heads", 32, int, where)
        kv_heads = setting(config, "num_key_value_heads", heads, int, where)
        head_dim = setting(config, "head_dim", max(1, hidden // heads), int, where)
        if heads % kv_heads or head_dim % 2 or ("head_dim" not in config and hidden % heads):
            sizes = f"hidden_size {hidden}, {heads} heads, {kv_heads} key/value heads, head_dim {head_dim}"
            raise CheckpointError(f"{where}: {sizes} do not fit together; download the checkpoint again")
        return cls(
            vocab_size=setting(config, "vocab_size", 32000, int, where),
            hidden_size=hidden,
            intermediate_size=setting(config, "intermediate_size", 11008, int, where),
            num_hidden_layers=setting(config, "num_hidden_layers", 32, int, where),
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            head_dim=head_dim,
            rms_norm_eps=setting(config, "rms_norm_eps", 1e-6, float, where),
            rope_theta=setting(rope, "rope_theta", config.get("rope_theta") or 10000.0, float, where),
            max_position_embeddings=setting(config, "max_position_embeddings", 2048, int, where),
        )


def onnx_operator(name: str, inputs: tuple[Tensor | None, ...], like: Tensor, **attributes: Any) -> Tensor:
    """One ONNX operator whose output has the dtype and shape of `like`; only under torch.onnx.export."""
    return torch.onnx.ops.symbolic(name, inputs, attrs=attributes, dtype=like.dtype, shape=like.shape, version=OPSET)


def cache_update(cache: Tensor, new: Tensor, write: Tensor) -> Tensor:
    """TensorScatter: new [1, H, T, Dh] into rows write.. of cache [1, H, S_max, Dh], in place where bound so."""
    if torch.onnx.is_in_onnx_export():
        return onnx_operator("TensorScatter", (cache, new, write), cache, axis=2)
    start = int(write)
    cache[:, :, start : start + new.shape[2]] = new
    return cache


def causal_attention(query: Tensor, key: Tensor, value: Tensor, valid: Tensor) -> Tensor:
    """Attention over the first `valid` cache rows, causal and aligned to their end; shapes as in `Attend`."""
    if torch.onnx.is_in_onnx_export():
        return onnx_operator("Attention", (query, key, value, None, None, None, valid), query, is_causal=1)
    end = int(valid)
    first = end - query.shape[2]
    rows = torch.arange(query.shape[2], device=query.device)[:, None]
    columns = torch.arange(end, device=query.device)[None]
    return nn.functional.scaled_dot_product_attention(
        query, key[:, :, :end], value[:, :, :end], attn_mask=columns <= rows + first, enable_gqa=True
    )


def masked_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """Attention where mask [T, S_max] (bool) allows it; shapes as in `Attend`."""
    if torch.onnx.is_in_onnx_export():
        return onnx_operator("Attention", (query, key, value, mask), query)
    return nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding of x [B, H, T, Dh], halves paired (not interleaved); cos and sin [B, T, Dh / 2]."""
    if torch.onnx.is_in_onnx_export():
        return onnx_operator("RotaryEmbedding", (x, cos, sin), x)
    a, b = x.chunk(2, -1)
    cos, sin = cos[:, None], sin[:, None]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis, in float32 inside, as transformers computes it."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        if torch.onnx.is_in_onnx_export():
            return onnx_operator("RMSNormalization", (x, self.weight), x, axis=-1, epsilon=self.eps)
        wide = x.float()
        return self.weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)).to(x.dtype)


class SelfAttention(nn.Module):
    """Grouped-query attention with rotary positions; `attend` and `store` decide about cache and mask."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        width, dim = config.hidden_size, config.head_dim
        self.heads, self.kv_heads, self.dim = config.num_attention_heads, config.num_key_value_heads, dim
        self.q_proj = nn.Linear(width, self.heads * dim, bias=False)
        self.k_proj = nn.Linear(width, self.kv_heads * dim, bias=False)
        self.v_proj = nn.Linear(width, self.kv_heads * dim, bias=False)
        self.o_proj = nn.Linear(self.heads * dim, width, bias=False)

    def project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, T, D] to rotated query [B, H, T, Dh] and key, and value [B, Hkv, T, Dh]."""

        def split(y: Tensor, heads: int) -> Tensor:
            return y.reshape(*y.shape[:2], heads, self.dim).transpose(1, 2)

        query, key, value = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        return (
            rotate(split(query, self.heads), cos, sin),
            rotate(split(key, self.kv_heads), cos, sin),
            split(value, self.kv_heads),
        )

    def output(self, y: Tensor) -> Tensor:
        """Attention result [B, H, T, Dh] to [B, T, D]."""
        return cast(Tensor, self.o_proj(y.transpose(1, 2).flatten(2)))


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.down_proj(nn.functional.silu(self.gate_proj(x)) * self.up_proj(x)))


class Layer(nn.Module):
    """One decoder layer, pre-norm."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = SelfAttention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = FeedForward(config)

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """What follows the attention: output projection and feed-forward, both residual."""
        x = x + self.self_attn.output(attended)
        return x + cast(Tensor, self.mlp(self.post_attention_layernorm(x)))

    def cached(
        self, x: Tensor, cos: Tensor, sin: Tensor, caches: tuple[Tensor, Tensor], write: Tensor, attend: Attend
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x [1, T, D] with this layer's caches; returns the new x and the updated caches."""
        query, key, value = self.self_attn.project(self.input_layernorm(x), cos, sin)
        keys, values = cache_update(caches[0], key, write), cache_update(caches[1], value, write)
        return self.finish(x, attend(query, keys, values)), keys, values

    def whole(self, x: Tensor, cos: Tensor, sin: Tensor, last: int) -> Tensor:
        """x [B, T, D], causal, without a cache; returns only the `last` rows [B, last, D]."""
        query, key, value = self.self_attn.project(self.input_layernorm(x), cos, sin)
        mask = torch.ones(last, x.shape[1], dtype=torch.bool, device=x.device).tril(x.shape[1] - last)
        y = nn.functional.scaled_dot_product_attention(
            query[:, :, -last:], key, value, attn_mask=mask, enable_gqa=key.shape[1] != query.shape[1]
        )
        return self.finish(x[:, -last:], y)


class Body(nn.Module):
    """Embedding table, layers and final norm: the checkpoint's `model.`."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class LlamaDecoder(nn.Module):
    """A Llama with static, head-first caches: a pair (keys, values) of [1, Hkv, S_max, Dh] a layer."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Body(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def empty_caches(self, s_max: int) -> tuple[Tensor, ...]:
        """Fresh caches of s_max rows: keys and values of layer 0, of layer 1, …"""
        shape = (1, self.config.num_key_value_heads, s_max, self.config.head_dim)
        weight = self.lm_head.weight
        return tuple(
            torch.zeros(shape, dtype=weight.dtype, device=weight.device)
            for _ in range(2 * self.config.num_hidden_layers)
        )

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids [...] to embeddings [..., D]."""
        return cast(Tensor, self.model.embed_tokens(ids))

    def forward(
        self,
        embeddings: Tensor,
        positions: Tensor,
        write: Tensor,
        valid: Tensor,
        rows: Tensor,
        caches: tuple[Tensor, ...],
    ) -> tuple[Tensor, ...]:
        """Causal step: embeddings [T, D] at positions [T] go to cache rows write [1].., of which valid [1] then count.

        Returns the logits [R, V] of `rows` [R] (indices into T), and the caches (updated in place outside of export).
        """
        return self._step(embeddings, positions, write, rows, caches, lambda q, k, v: causal_attention(q, k, v, valid))

    def tree(
        self,
        embeddings: Tensor,
        positions: Tensor,
        write: Tensor,
        mask: Tensor,
        rows: Tensor,
        caches: tuple[Tensor, ...],
    ) -> tuple[Tensor, ...]:
        """As `forward`, each row seeing the cache rows that mask [T, S_max] (bool) allows: for token trees."""
        return self._step(embeddings, positions, write, rows, caches, lambda q, k, v: masked_attention(q, k, v, mask))

    def hidden(self, embeddings: Tensor) -> Tensor:
        """Whole sequences without a cache, as a reference: embeddings [B, T, D] to normed hidden states [B, T, D]."""
        length = embeddings.shape[1]
        cos, sin = self.angles(torch.arange(length, device=embeddings.device), embeddings.dtype)
        x = embeddings
        for layer in self.layers:
            x = layer.whole(x, cos, sin, length)
        return cast(Tensor, self.model.norm(x))

    @property
    def layers(self) -> list[Layer]:
        return [cast(Layer, layer) for layer in self.model.layers]

    def angles(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosines and sines [1, T, Dh / 2] of positions [T]; computed in float32 whatever the weights are."""
        half = torch.arange(0, self.config.head_dim, 2, dtype=torch.float32, device=positions.device)
        frequencies = 1.0 / self.config.rope_theta ** (half / self.config.head_dim)
        angles = positions[None, :, None].float() * frequencies
        return angles.cos().to(dtype), angles.sin().to(dtype)

    def _step(
        self,
        embeddings: Tensor,
        positions: Tensor,
        write: Tensor,
        rows: Tensor,
        caches: tuple[Tensor, ...],
        attend: Attend,
    ) -> tuple[Tensor, ...]:
        cos, sin = self.angles(positions, embeddings.dtype)
        x = embeddings[None]
        updated: list[Tensor] = []
        for i, layer in enumerate(self.layers):
            x, keys, values = layer.cached(x, cos, sin, (caches[2 * i], caches[2 * i + 1]), write, attend)
            updated += [keys, values]
        return self.lm_head(self.model.norm(x[0].index_select(0, rows))), *updated


class TreeDecoder(nn.Module):
    """`LlamaDecoder.tree` as a module of its own, for export."""

    def __init__(self, decoder: LlamaDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(
        self,
        embeddings: Tensor,
        positions: Tensor,
        write: Tensor,
        mask: Tensor,
        rows: Tensor,
        caches: tuple[Tensor, ...],
    ) -> tuple[Tensor, ...]:
        return self.decoder.tree(embeddings, positions, write, mask, rows, caches)
