"""Torch against ONNX Runtime, stage by stage: vision, prefill, decode, verify, tree."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.errors import ModelError
from models.runtimes.contract import DecoderRuntime, Floats
from models.runtimes.onnx import DecoderSizes, OnnxDecoder, OnnxVision
from models.runtimes.torch import TorchDecoder, TorchVision
from models.stored import stored_tensors


def check_parity(
    model: Any, folder: Path, manifest: dict[str, Any], tolerance: float, report: Callable[[str], None]
) -> dict[str, float]:
    """The largest absolute difference of each stage on seeded random input, reported one line each.

    Raises ModelError when one exceeds the tolerance.
    """
    s_max, sizes = manifest["s_max"], manifest["decoder"]
    embedding = stored_tensors(folder / manifest["embedding"]["file"])[manifest["embedding"]["tensor"]]
    ours = OnnxDecoder(folder, DecoderSizes(s_max=s_max, **sizes), embedding)
    theirs = TorchDecoder(model.decoder, s_max)
    random = np.random.default_rng(0)
    size = manifest["image_size"]
    pixels = random.standard_normal((manifest["frames"], 3, size, size), np.float32)
    differences = {
        "vision": _difference(
            OnnxVision(folder / "vision.onnx").encode(pixels, 1), TorchVision(model.vision).encode(pixels, 1)
        )
    }
    ids = random.integers(0, sizes["vocabulary"], s_max)
    differences["embed"] = _difference(ours.embed(ids), theirs.embed(ids))
    for stage, a, b in zip(_STAGES, _stages(ours, ids), _stages(theirs, ids), strict=True):
        differences[stage] = _difference(a, b)
    ours.check_alignment()
    for stage, difference in differences.items():
        report(f"parity {stage}: largest difference {difference:.1e}")
        if not difference <= tolerance:
            raise ModelError(
                f"{manifest['name']}: {stage} differs by {difference:.1e} between torch and ONNX Runtime, more than "
                f"{tolerance:.0e}; nothing was exported"
            )
    return {stage: float(f"{difference:.2e}") for stage, difference in differences.items()}


_STAGES = ("prefill", "decode", "verify", "tree")


def _stages(decoder: DecoderRuntime, ids: NDArray[np.int64]) -> list[Floats]:
    """Logits of each stage, each continuing the one before it; a rejected draft lies between decode and verify."""
    length = len(ids) // 2
    draft = min(8, length // 4)
    x = decoder.embed(ids)
    prefill = decoder.forward(x[:length], 0, np.arange(length), 1)
    decode = [decoder.forward(x[i : i + 1], i, np.arange(1), 1) for i in range(length, length + draft)]
    length += draft
    decoder.forward(x[:draft], length, np.arange(0), 1)
    verify = decoder.forward(x[length : length + draft], length, np.arange(draft), 1)
    length += draft
    # a tree of two branches that share their first node: node 0, then 1, 3, … and 2, 4, …
    parents = [-1, *(max(0, i - 2) for i in range(1, draft))]
    mask, depth = np.eye(draft, dtype=np.bool_), np.zeros(draft, np.int64)
    for node, parent in enumerate(parents):
        if parent >= 0:
            mask[node] |= mask[parent]
            depth[node] = depth[parent] + 1
    nodes = x[length : length + draft]
    tree = decoder.forward_tree(nodes, length + depth, mask, length, np.arange(draft), 1)
    kept = np.flatnonzero(mask[-1])
    decoder.compact(length, kept)
    after = decoder.forward(x[:1], length + len(kept), np.arange(1), 1)
    return [prefill, np.concatenate(decode), verify, np.concatenate([tree, after])]


def _difference(a: Floats, b: Floats) -> float:
    return float(np.abs(a - b).max())
