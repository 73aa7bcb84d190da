"""What weight quantisation changed: the same decoder before and after, over the same rows, on ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from models.runtimes.contract import Floats
from models.runtimes.onnx import DecoderSizes, OnnxDecoder
from models.stored import stored_tensors


def run_decoder(folder: Path, manifest: Mapping[str, Any]) -> Floats:
    """Logits [T, V] of one seeded random prompt that fills half of the cache, and of random ids behind it."""
    embedding = stored_tensors(folder / manifest["embedding"]["file"])[manifest["embedding"]["tensor"]]
    decoder = OnnxDecoder(folder, DecoderSizes(s_max=manifest["s_max"], **manifest["decoder"]), embedding)
    ids = np.random.default_rng(0).integers(0, manifest["decoder"]["vocabulary"], manifest["s_max"])
    half = len(ids) // 2
    prefill = decoder.forward(decoder.embed(ids[:half]), 0, np.arange(half), 1)
    rest = [decoder.forward(decoder.embed(ids[i : i + 1]), i, np.arange(1), 1) for i in range(half, len(ids))]
    return np.concatenate([prefill, *rest])


def compare(before: Floats, after: Floats, name: str, report: Callable[[str], None]) -> dict[str, float]:
    """The error of the logits relative to their spread, and the share of rows whose likeliest token is the same."""
    spread = float(before.std()) or 1.0
    figures = {
        "logit_error": float(np.sqrt(np.mean((after - before) ** 2)) / spread),
        "token_agreement": float((before.argmax(-1) == after.argmax(-1)).mean()),
    }
    report(
        f"quality {name}: logits differ by {figures['logit_error']:.1%} of their spread, "
        f"{figures['token_agreement']:.1%} of the likeliest tokens are the same"
    )
    return {key: round(value, 4) for key, value in figures.items()}
