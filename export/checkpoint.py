"""From a checkpoint to a model folder: weights once, three graphs that point into them, a manifest; checked."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import onnx
import torch

from export.graphs import attach, decoder_graph, tree_graph, vision_graph
from export.joint import join_projections
from export.parity import check_parity
from models.checkpoint import Names, load_tensors, read_config, weight_files
from models.clip import ClipConfig, ClipVision
from models.errors import ModelError
from models.manifest import FORMAT, MANIFEST
from models.networks import network_of
from models.prompts import PROMPTS, QUESTION
from models.stored import StoredTensor, sha256, stored_tensors
from models.tokenizer import load_tokenizer

TOLERANCE = 1e-4
_SIDE_FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json")
_STORAGE = {"F16": "float16", "BF16": "bfloat16", "F32": "float32"}


def export_checkpoint(
    checkpoint: Path,
    out: Path,
    s_max: int | None = None,
    *,
    max_new_tokens: int = 64,
    demo: bool = False,
    name: str | None = None,
    report: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Export an EventGPT or Video-LLaVA checkpoint folder to a model folder `out`; returns its manifest.

    `out` may be the checkpoint itself: then only graphs and manifest are added. Otherwise it must not exist yet.
    s_max (cache rows) defaults to the demo question's prompt and `max_new_tokens` and 32 drafts in flight, rounded up
    to a multiple of 8. `report` gets one line a stage: the largest difference between torch and ONNX Runtime.

    Raises ModelError or CheckpointError for a checkpoint that cannot be used and for a difference above 1e-4; nothing
    is left behind then.
    """
    checkpoint, out = checkpoint.resolve(), out.resolve()
    config = read_config(checkpoint)
    network = network_of(checkpoint)
    if out != checkpoint and out.exists():
        raise ModelError(f"{out}: exists already; name a new folder or remove it")
    model = network.load(checkpoint)
    model.requires_grad_(False)
    prompt = _prompt(checkpoint, config["model_type"], model.visual_tokens)
    if s_max is None:
        if prompt is None:
            raise ModelError(f"{checkpoint.name}: no tokenizer, so the prompt's length is unknown; give s_max")
        s_max = -(-(prompt["rows"] + max_new_tokens + 32) // 8) * 8
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as temporary:
        folder = Path(temporary)
        weights = _weights(checkpoint, folder, model, network.names, _link if out == checkpoint else shutil.copyfile)
        tower, llama = _tower(model), model.decoder.config
        clip = tower.config
        graphs = {
            "vision": (
                vision_graph(model.vision, network.frames, clip.image_size, fixed=tower.temporal_frames is not None),
                "vision.",
            ),
            "decoder": (decoder_graph(model.decoder, s_max), "decoder."),
            "decoder_tree": (tree_graph(model.decoder, s_max), "decoder."),
        }
        for graph_name, (graph, prefix) in graphs.items():
            attach(graph, weights, prefix)
            join_projections(graph)
            onnx.save_model(graph, folder / f"{graph_name}.onnx")
        embedding = weights["decoder.model.embed_tokens.weight"]
        files = sorted({tensor.file for tensor in weights.values()})
        manifest: dict[str, Any] = {
            "format": FORMAT,
            "role": network.role,
            "name": name or checkpoint.name,
            "demo": demo,
            "network": config["model_type"],
            "weights": {file.name: {"bytes": file.stat().st_size, "sha256": sha256(file)} for file in files},
            "graphs": {
                file.name: {"bytes": file.stat().st_size, "sha256": sha256(file)}
                for file in sorted(folder.glob("*.onnx"))
            },
            "precision": {"storage": _STORAGE[embedding.dtype], "compute": "float32"},
            "s_max": s_max,
            "frames": network.frames,
            "visual_tokens": model.visual_tokens,
            "image_size": clip.image_size,
            "decoder": {
                "layers": llama.num_hidden_layers,
                "kv_heads": llama.num_key_value_heads,
                "head_dim": llama.head_dim,
                "width": llama.hidden_size,
                "vocabulary": llama.vocab_size,
            },
            "embedding": {"file": embedding.file.name, "tensor": embedding.name},
            "prompt": prompt,
            "tools": {tool: version(tool) for tool in ("torch", "onnx", "onnxscript", "onnxruntime")},
        }
        manifest["parity"] = check_parity(model, folder, manifest, TOLERANCE, report)
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        _move(folder, out, checkpoint, clip)
    return manifest


def _tower(model: Any) -> ClipVision:
    vision = model.vision
    return cast(ClipVision, vision.visual_tower if hasattr(vision, "visual_tower") else vision.video_tower)


def _prompt(checkpoint: Path, model_type: str, visual_tokens: int) -> dict[str, Any] | None:
    """The demo question's prompt in rows, for the manifest; None without a tokenizer."""
    if not any((checkpoint / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        return None
    prompt = PROMPTS[model_type](load_tokenizer(checkpoint), QUESTION, visual_tokens)
    return {"question": QUESTION, "head": len(prompt.head_ids), "tail": len(prompt.tail_ids), "rows": len(prompt)}


def _weights(
    checkpoint: Path, folder: Path, model: Any, names: Names, bring: Callable[[Path, Path], object]
) -> dict[str, StoredTensor]:
    """Our parameter names to tensors in safetensors files inside `folder`.

    Safetensors are brought there as they are. What lies elsewhere (pickled files, a CLIP folder beside) is written to
    one safetensors file in the checkpoint's own precision.
    """
    files = weight_files(checkpoint)
    if all(file.suffix == ".safetensors" for file in files):
        found = {}
        for file in files:
            for published, tensor in stored_tensors(file).items():
                ours = names.ours(published)
                if ours is not None:
                    found[ours] = (tensor, file)
        if set(model.state_dict()) <= set(found):
            for file in files:
                bring(file, folder / file.name)
            copies = {file: stored_tensors(folder / file.name) for file in files}
            return {ours: copies[file][tensor.name] for ours, (tensor, file) in found.items()}
    from safetensors.torch import save_file

    stored = next(iter(load_tensors(checkpoint).values()))[0].dtype
    dtype = stored if stored in (torch.float16, torch.bfloat16) else torch.float32
    state = {names.published(ours, []): value.to(dtype).contiguous() for ours, value in model.state_dict().items()}
    file = folder / ("weights.safetensors" if (checkpoint / "model.safetensors").exists() else "model.safetensors")
    save_file(state, file, {"format": "pt"})
    tensors = stored_tensors(file)
    return {ours: tensors[names.published(ours, [])] for ours in model.state_dict()}


def _move(folder: Path, out: Path, checkpoint: Path, clip: ClipConfig) -> None:
    """Put the finished folder in its place: one rename, or, inside the checkpoint, the manifest last."""
    if out == checkpoint:
        (out / MANIFEST).unlink(missing_ok=True)  # a manifest never describes another export's graphs
        for file in sorted(folder.iterdir(), key=lambda file: file.name == MANIFEST):
            if not (out / file.name).exists() or file.suffix != ".safetensors":
                file.replace(out / file.name)
        return
    for side in _SIDE_FILES:
        if (checkpoint / side).is_file():
            shutil.copyfile(checkpoint / side, folder / side)
    config = read_config(checkpoint)
    if "vision_config" not in config:  # official checkpoints name a tower's folder, which is not beside the export
        (folder / "config.json").write_text(json.dumps(config | {"vision_config": asdict(clip)}, indent=2) + "\n")
    folder.chmod(0o755)  # temporary folders are private
    folder.rename(out)


def _link(source: Path, target: Path) -> None:
    """For the parity check of an export in place; finished folders hold files, since onnx refuses hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
