"""What verifying n tokens costs, alone and in the last chunk of the prefill, in units of one decode step."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from app.decoding.costs import Costs
from models.bundle import VisionLanguageModel

ROWS = (1, 2, 4, 8, 16, 24, 32, 48, 64)
REPEATS = 9


def verify_cost(target: VisionLanguageModel, question: str, costs: Costs, rows: Sequence[int] = ROWS) -> dict[str, Any]:
    """`alone`: a verify pass over n rows ÷ one decode step; `fused`: what n rows add to the prefill ÷ one decode step.

    The best of a few interleaved rounds, so that neither drift nor another process decides. Overwrites the target's
    cache.
    """
    decoder, prompt = target.decoder, target.prompt(question)
    behind = len(prompt) - len(prompt.head_ids)
    head = len(prompt.head_ids)
    fits = [n for n in rows if len(prompt) + n <= decoder.s_max]
    embeddings = np.random.default_rng(0).standard_normal((behind + max(fits), decoder.width), np.float32) * 0.02

    def alone(n: int) -> None:
        wanted = np.arange(n, dtype=np.int64)
        decoder.forward(embeddings[:n], len(prompt), wanted, costs.target_step.threads)

    def fused(n: int) -> None:
        wanted = np.arange(behind - 1, behind + n, dtype=np.int64)
        decoder.forward(embeddings[: behind + n], head, wanted, costs.target_prefill.threads)

    alone_ms = dict.fromkeys(fits, math.inf)
    fused_ms = dict.fromkeys((0, *fits), math.inf)
    for _ in range(REPEATS):
        for call, best in ((alone, alone_ms), (fused, fused_ms)):
            for n in best:
                start = time.perf_counter()
                call(n)
                best[n] = min(best[n], (time.perf_counter() - start) * 1e3)
    step, prefill = alone_ms[1], fused_ms[0]
    return {
        "step_ms": step,
        "prefill_ms": prefill,
        "alone": {n: ms / step for n, ms in alone_ms.items()},
        "fused": {n: (ms - prefill) / step for n, ms in fused_ms.items() if n},
        "knee": costs.knee,
        "plan_ms": {"verify": costs.verify_curve, "fused": costs.fused_curve},
    }
