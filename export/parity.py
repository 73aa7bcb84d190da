"""Torch against ONNX Runtime, stage by stage: vision, embedding, prefill, decode, verify, tree."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from models.checkpoint import read_json
from models.errors import ModelError
from models.manifest import MANIFEST
from models.runtimes.contract import Floats, WarmDecoder, WarmVision
from models.runtimes.onnx import DecoderSizes, OnnxDecoder, OnnxVision
from models.stored import stored_tensors

ENGINE_TOLERANCE = 3e-2  # of half precision and other kernels, relative to a stage's largest value


def check_parity(
    model: Any,
    folder: Path,
    manifest: Mapping[str, Any],
    tolerance: float,
    report: Callable[[str], None],
    *,
    relative: bool = False,
) -> dict[str, float]:
    """The largest difference of each stage on seeded random input, reported one line each; `model` is torch's.

    The torch network runs first. It leaves the memory before ONNX Runtime starts if the caller keeps no hold of it.

    `relative` divides by the stage's largest value where that exceeds 1: activations of published models reach
    hundreds, where float32 itself is coarser than the tolerance. Raises ModelError when one exceeds the tolerance.
    """
    from models.runtimes.torch import TorchDecoder, TorchVision  # engines are compared without torch

    expected = _outputs(TorchVision(model.vision), TorchDecoder(model.decoder, manifest["s_max"]), manifest)
    del model
    embedding = stored_tensors(folder / manifest["embedding"]["file"])[manifest["embedding"]["tensor"]]
    decoder = OnnxDecoder(folder, DecoderSizes(s_max=manifest["s_max"], **manifest["decoder"]), embedding)
    found = _outputs(OnnxVision(folder / "vision.onnx"), decoder, manifest)
    decoder.check_alignment()
    return _differences(
        expected, found, f"{manifest['name']}: %s between torch and ONNX Runtime", tolerance, report, relative
    )


def check_engines(folder: Path, report: Callable[[str], None]) -> dict[str, float]:
    """The same between ONNX Runtime on the CPU and the engines on this machine's GPU, relative to each stage's largest.

    Takes a while: ONNX Runtime runs the whole model. Raises ModelError, also where the engines do not load.
    """
    from models.bundle import load_model

    engines = load_model(folder, _role(folder), "tensorrt")
    found = _outputs(engines.vision, engines.decoder, engines.manifest)
    reference = load_model(folder, engines.role, "onnx")
    expected = _outputs(reference.vision, reference.decoder, reference.manifest)
    what = f"{engines.name}: %s between ONNX Runtime and TensorRT"
    return _differences(expected, found, what, ENGINE_TOLERANCE, report, True, "the engines are not used")


def _differences(
    expected: Mapping[str, Floats],
    found: Mapping[str, Floats],
    what: str,
    tolerance: float,
    report: Callable[[str], None],
    relative: bool,
    outcome: str = "nothing was exported",
) -> dict[str, float]:
    differences = {}
    for stage, values in expected.items():
        scale = max(1.0, float(np.abs(values).max())) if relative else 1.0
        difference = float(np.abs(values - found[stage]).max()) / scale
        report(f"parity {stage}: largest difference {difference:.1e}")
        if not difference <= tolerance:
            differs = f"{stage} differs by {difference:.1e}"
            raise ModelError(f"{what % differs}, more than {tolerance:.0e}; {outcome}")
        differences[stage] = float(f"{difference:.2e}")
    return differences


def _role(folder: Path) -> Literal["drafter", "target"]:
    return "drafter" if read_json(folder / MANIFEST).get("role") == "drafter" else "target"


def _outputs(vision: WarmVision, decoder: WarmDecoder, manifest: Mapping[str, Any]) -> dict[str, Floats]:
    random = np.random.default_rng(0)
    size = manifest["image_size"]
    tokens = vision.encode(random.standard_normal((manifest["frames"], 3, size, size), np.float32), 1)
    vision.keep(())  # its weights leave the memory before the decoder's come
    ids = random.integers(0, manifest["decoder"]["vocabulary"], manifest["s_max"])
    x = decoder.embed(ids)
    return {"vision": tokens, "embed": x} | _stages(decoder, x)


def _stages(decoder: WarmDecoder, x: Floats) -> dict[str, Floats]:
    """Logits of each stage, each continuing the one before it; a rejected draft lies between decode and verify."""
    length = len(x) // 2
    draft = min(8, length // 4)
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
    return {
        "prefill": prefill,
        "decode": np.concatenate(decode),
        "verify": verify,
        "tree": np.concatenate([tree, after]),
    }
