"""Whether a runtime's causal attention ends where the valid cache rows do: many versions align it to the beginning."""

from __future__ import annotations

import numpy as np

from models.runtimes.contract import DecoderRuntime


def aligned(decoder: DecoderRuntime, threads: int, tolerance: float) -> bool:
    """Four tokens at once must equal two and two, within `tolerance` of the largest logit. Overwrites the cache."""
    embeddings = np.random.default_rng(0).standard_normal((4, decoder.width), np.float32)
    whole = decoder.forward(embeddings, 0, np.arange(4), threads)
    decoder.forward(embeddings[:2], 0, np.arange(0), threads)
    parts = decoder.forward(embeddings[2:], 2, np.arange(2), threads)
    return bool(np.allclose(whole[2:], parts, rtol=tolerance, atol=tolerance * float(np.abs(whole).max())))
