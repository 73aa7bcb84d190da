"""Captions as training sequences, and as the models' own words: loss, greedy decoding of a batch, agreement."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from models.llama import LlamaDecoder
from models.prompts import Prompt
from models.tokenizer import Tokenizer

LONGEST = 72  # tokens of a caption
IGNORED = -100


def padded(texts: Sequence[Sequence[int]], eos: int) -> tuple[Tensor, Tensor]:
    """Token lists, each without EOS, to inputs [B, L] (EOS where there is nothing) and what follows each, [B, L + 1].

    The label of row i is the token after input i − 1 (row 0: after the prompt); padding is IGNORED.
    """
    length = max(len(ids) for ids in texts)
    inputs = torch.full((len(texts), length), eos)
    labels = torch.full((len(texts), length + 1), IGNORED)
    for i, ids in enumerate(texts):
        inputs[i, : len(ids)] = torch.tensor(ids)
        labels[i, : len(ids) + 1] = torch.tensor([*ids, eos])
    return inputs, labels


def prefix(decoder: LlamaDecoder, prompt: Prompt, visual: Tensor, kept: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Visual embeddings [B, n, D] inside their prompt: embeddings [B, P, D] and their positions [1 or B, P].

    `kept` [B, n] are the places, among the prompt's visual rows, of the ones that are there (default: all of them).
    """
    batch, device = visual.shape[0], visual.device
    head, tail = (
        decoder.embed(torch.tensor(ids, device=device)).expand(batch, -1, -1)
        for ids in (prompt.head_ids, prompt.tail_ids)
    )
    first, last = len(prompt.head_ids), len(prompt.head_ids) + prompt.num_visual
    places = torch.arange(prompt.num_visual, device=device)[None] if kept is None else kept
    before, after = (
        torch.arange(*ends, device=device).expand(len(places), -1) for ends in ((first,), (last, len(prompt)))
    )
    return torch.cat([head, visual, tail], 1), torch.cat([before, first + places, after], 1)


def caption_pass(decoder: LlamaDecoder, before: Tensor, positions: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """A prefix [B, P, D] at positions [1 or B, P] and the caption's inputs [B, L], in one causal pass.

    Returns the logits [B, L + 1, V] for each token of the caption, and the prefix's rows after half of the layers.
    """
    length, layers = inputs.shape[1], decoder.layers
    following = positions[:, -1:] + 1 + torch.arange(length, device=positions.device)
    places = torch.cat([positions, following], 1)
    x = torch.cat([before, decoder.embed(inputs)], 1)
    cos, sin = (part.reshape(*places.shape, -1) for part in decoder.angles(places.flatten(), x.dtype))
    for layer in layers[: len(layers) // 2]:
        x = layer.whole(x, cos, sin, x.shape[1])
    midway = x[:, : before.shape[1]]
    for layer in layers[len(layers) // 2 : -1]:
        x = layer.whole(x, cos, sin, x.shape[1])
    logits: Tensor = decoder.lm_head(decoder.model.norm(layers[-1].whole(x, cos, sin, length + 1)))
    return logits, midway


def caption_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over the caption's tokens and its EOS."""
    return functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)


@torch.no_grad()
def greedy(decoder: LlamaDecoder, before: Tensor, eos: int, longest: int = LONGEST) -> list[list[int]]:
    """Each sequence's greedy continuation of its prefix [B, P, D], without EOS; the prefix is computed once."""
    keys: list[Tensor] = []
    values: list[Tensor] = []
    x, position = before, 0
    said: list[Tensor] = []
    open_ = torch.ones(before.shape[0], dtype=torch.bool, device=before.device)
    while len(said) < longest and bool(open_.any()):
        cos, sin = decoder.angles(torch.arange(position, position + x.shape[1], device=x.device), x.dtype)
        position += x.shape[1]
        for i, layer in enumerate(decoder.layers):
            query, key, value = layer.self_attn.project(layer.input_layernorm(x), cos, sin)
            if len(said) == 0:
                keys.append(key)
                values.append(value)
            else:
                keys[i], values[i] = torch.cat([keys[i], key], 2), torch.cat([values[i], value], 2)
            y = functional.scaled_dot_product_attention(query, keys[i], values[i], is_causal=x.shape[1] > 1)
            x = layer.finish(x, y)
        chosen = decoder.lm_head(decoder.model.norm(x[:, -1])).argmax(-1)
        open_ &= chosen != eos
        said.append(torch.where(open_, chosen, eos))
        x = decoder.embed(chosen[:, None])
    rows = torch.stack(said, 1).tolist()
    return [row[: row.index(eos)] if eos in row else row for row in rows]


def encoded(tokenizer: Tokenizer, text: str) -> list[int]:
    """A caption's ids as they follow the prompt."""
    return list(tokenizer.encode(text))
