"""Greedy decoding with the static cache, shared by the parity tests."""

from __future__ import annotations

import torch
from torch import Tensor

from models.llama import LlamaDecoder


def greedy(decoder: LlamaDecoder, embeddings: Tensor, tokens: int) -> tuple[list[int], Tensor]:
    """Prefill embeddings [T, D], then decode; the ids and the logits [tokens, V] that chose them."""
    caches = decoder.empty_caches(len(embeddings) + tokens)
    length, ids, steps = 0, [], []
    for _ in range(tokens):
        count = len(embeddings)
        logits, *_ = decoder(
            embeddings,
            torch.arange(length, length + count),
            torch.tensor([length]),
            torch.tensor([length + count]),
            torch.tensor([count - 1]),
            caches,
        )
        length += count
        steps.append(logits[0])
        ids.append(int(logits[0].argmax()))
        embeddings = decoder.embed(torch.tensor(ids[-1:]))
    return ids, torch.stack(steps)
