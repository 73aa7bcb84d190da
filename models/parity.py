"""`python -m models.parity CHECKPOINT GOLDEN.npz`: our networks against outputs of the official code.

A golden file holds what the official code computed from the same checkpoint: pixels, the vision side's activations and,
for prompts 0, 1, …, ids, embeddings, logits and greedy tokens. Every stage that it has is computed with PyTorch and
with the exported ONNX graphs; the largest difference of each is printed. Exit code 0 when all are within 1e-4 and the
tokens are identical, 1 otherwise.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.checkpoint import place, read_config
from models.errors import ModelError
from models.runtimes.contract import DecoderRuntime, Floats, Ints

TOLERANCE = 1e-4
VISUAL = "visual tokens"  # the one stage that golden files call by different names
_PIXELS = ("pixel_values", "pixel_values_videos", "pixel_values_videos_pil")

Golden = Mapping[str, NDArray[Any]]
Stages = Callable[[Floats], dict[str, Floats]]  # pixels [N, 3, S, S] to activations by their golden names, and VISUAL


def read_golden(file: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a golden file. Raises ModelError for anything else."""
    try:
        with np.load(file, allow_pickle=False) as content:
            golden = dict(content)
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise ModelError(f"{place(file)}: not a readable .npz of plain arrays ({error}); name a golden file") from None
    if not any(name in golden for name in _PIXELS) or not _prompts(golden):
        raise ModelError(f"{place(file)}: no pixels or no prompt0_ids in it; name a golden file of a whole model")
    return golden


def differences(golden: Golden, stages: Stages, decoder: DecoderRuntime, placeholder: int) -> dict[str, float]:
    """The largest absolute difference of each stage that the golden file has; of tokens, how many differ.

    `placeholder` is the id in whose place the visual tokens stand; a negative one always is. Raises ModelError when
    shapes show that the file belongs to another checkpoint.
    """
    pixels = next(golden[name] for name in _PIXELS if name in golden)
    computed = stages(np.ascontiguousarray(pixels.reshape(-1, *pixels.shape[-3:]), np.float32))
    visual = computed.pop(VISUAL)
    found = {name: _largest(name, value, golden[name]) for name, value in computed.items() if name in golden}
    for k in _prompts(golden):
        found |= _prompt_differences(golden, f"prompt{k}_", visual, decoder, placeholder)
    return found


def cache_rows(golden: Golden, visual_tokens: int) -> int:
    """Rows of a cache that holds every prompt of the file and what is generated after it, a multiple of 8."""
    longest = max(
        len(_ids(golden, f"prompt{k}_")) + visual_tokens + golden.get(f"prompt{k}_greedy", np.empty(0)).size
        for k in _prompts(golden)
    )
    return -(-longest // 8) * 8


def compare(checkpoint: Path, file: Path) -> dict[str, tuple[float, float]]:
    """For each stage the largest difference with PyTorch and with ONNX Runtime. Raises ModelError."""
    from models.networks import network_of
    from models.runtimes.torch import TorchDecoder

    golden, config = read_golden(file), read_config(checkpoint)
    model = network_of(checkpoint).load(checkpoint)
    placeholder = int(config.get("video_token_index") or config.get("video_token_id") or -200)
    rows = cache_rows(golden, model.visual_tokens)
    ours = differences(golden, _torch_stages(model), TorchDecoder(model.decoder, rows), placeholder)
    with tempfile.TemporaryDirectory() as folder:
        exported = differences(golden, *_exported(checkpoint, Path(folder) / "model", rows), placeholder)
    return {name: (ours[name], exported[name]) for name in ours}


def within(name: str, difference: float) -> bool:
    """Whether a stage passes: tokens must be identical, NaN never passes."""
    return difference == 0 if name.endswith(("greedy", "greedy_eos")) else difference <= TOLERANCE


def _prompts(golden: Golden) -> list[int]:
    numbers: list[int] = []
    while f"prompt{len(numbers)}_ids" in golden or f"prompt{len(numbers)}_ids_single" in golden:
        numbers.append(len(numbers))
    return numbers


def _ids(golden: Golden, prefix: str) -> Ints:
    key = f"{prefix}ids"
    return (golden[key] if key in golden else golden[f"{key}_single"]).ravel().astype(np.int64)


def _prompt_differences(
    golden: Golden, prefix: str, visual: Floats, decoder: DecoderRuntime, placeholder: int
) -> dict[str, float]:
    ids = _ids(golden, prefix)
    places = np.flatnonzero((ids < 0) | (ids == placeholder))
    if not len(places):
        raise ModelError(f"{prefix}ids: no place for the visual tokens; name a golden file of this model")
    before, after = ids[: places[0]], ids[places[-1] + 1 :]
    embeddings = np.concatenate([decoder.embed(before), visual, decoder.embed(after)])
    wanted: NDArray[Any] = golden.get(f"{prefix}greedy", np.empty(0, np.int64)).ravel()
    rows = len(embeddings)
    logits = decoder.forward(embeddings, 0, np.arange(rows), 1)
    tokens: list[int] = []
    steps = [logits[-1]]
    for length in range(rows, rows + len(wanted)):
        tokens.append(int(steps[-1].argmax()))
        if len(tokens) < len(wanted):
            steps.append(decoder.forward(decoder.embed(np.array(tokens[-1:])), length, np.arange(1), 1)[0])
    computed = {
        "inputs_embeds": embeddings,
        "logits": logits,
        "last_logits": logits[-1],
        "step_logits": np.stack(steps),
    }
    found = {
        prefix + name: _largest(prefix + name, value, golden[prefix + name])
        for name, value in computed.items()
        if prefix + name in golden
    }
    if len(wanted):
        found[f"{prefix}greedy"] = _unlike(tokens, wanted.tolist())
    if f"{prefix}greedy_eos" in golden:
        eos = int(golden[f"{prefix}eos_id"])
        end = tokens.index(eos) + 1 if eos in tokens else len(tokens)
        found[f"{prefix}greedy_eos"] = _unlike(tokens[:end], golden[f"{prefix}greedy_eos"].ravel().tolist())
    return found


def _largest(name: str, ours: Floats, golden: NDArray[Any]) -> float:
    if ours.size != golden.size:
        raise ModelError(
            f"{name}: {list(golden.shape)} in the golden file, but this checkpoint gives {list(ours.shape)}; "
            "the file belongs to another checkpoint"
        )
    return float(np.abs(ours - golden.reshape(ours.shape)).max())


def _unlike(ours: list[int], golden: list[int]) -> float:
    return float(sum(a != b for a, b in zip(ours, golden, strict=False)) + abs(len(ours) - len(golden)))


def _torch_stages(model: Any) -> Stages:
    import torch

    def event_stages(pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        vision = model.vision
        hidden = vision.visual_tower(pixels)[-1]
        projected = vision.visual_projector(hidden)
        adapted = vision.feature_adaptor(projected)
        pooled = vision.pool(adapted)
        return {
            "clip_last_hidden_state": hidden,
            "projector_out": projected,
            "adaptor_out": adapted,
            "pooled": pooled,
            VISUAL: pooled,
        }

    def video_stages(pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        vision = model.vision
        hidden = vision.video_tower(pixels)[-2]
        features = vision.multi_modal_projector(hidden)
        return {"vision_selected_hidden": hidden, "video_features": features, VISUAL: features.flatten(0, 1)}

    compute = event_stages if hasattr(model.vision, "visual_tower") else video_stages

    def stages(pixels: Floats) -> dict[str, Floats]:
        with torch.inference_mode():
            return {name: value.numpy() for name, value in compute(torch.from_numpy(pixels)).items()}

    return stages


def _exported(checkpoint: Path, out: Path, rows: int) -> tuple[Stages, DecoderRuntime]:
    """The checkpoint's export, made for this comparison: the one place where `models` reaches for `export`."""
    from export.checkpoint import export_checkpoint
    from export.stages import open_stages
    from models.runtimes.onnx import DecoderSizes, OnnxDecoder
    from models.stored import stored_tensors

    manifest = export_checkpoint(checkpoint, out, rows, report=lambda line: None)
    embedding = stored_tensors(out / manifest["embedding"]["file"])[manifest["embedding"]["tensor"]]
    decoder = OnnxDecoder(out, DecoderSizes(s_max=manifest["s_max"], **manifest["decoder"]), embedding)
    return open_stages(out, manifest["role"], VISUAL), decoder


def main() -> int:
    """The command."""
    from models.towers import find_checkpoint

    parser = argparse.ArgumentParser(
        prog="python -m models.parity", description="Our networks against the official code."
    )
    parser.add_argument("checkpoint", help="folder of a checkpoint, or a downloaded hub id")
    parser.add_argument("golden", type=Path, help=".npz with the official outputs of that checkpoint")
    arguments = parser.parse_args()
    try:
        found = compare(find_checkpoint(arguments.checkpoint), arguments.golden)
    except (ModelError, OSError) as error:
        print(f"models.parity: {error}", file=sys.stderr)
        return 1
    width = max(map(len, found))
    print(f"{'largest difference':{width}}  {'PyTorch':>9}  {'ONNX':>9}")
    for name, pair in found.items():
        mark = "" if all(within(name, difference) for difference in pair) else "  <- more than allowed"
        shown = (
            [f"{d:.0f} differ" if d else "identical" for d in pair] if "greedy" in name else [f"{d:.1e}" for d in pair]
        )
        print(f"{name:{width}}  {shown[0]:>9}  {shown[1]:>9}{mark}")
    passed = all(within(name, difference) for name, pair in found.items() for difference in pair)
    print(f"{'within' if passed else 'NOT within'} {TOLERANCE:.0e}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
