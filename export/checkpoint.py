"""From a checkpoint to a model folder: weights once, three graphs that point into them, a manifest; checked.

No more of a model than one tensor is in memory while it is exported (but for the oldest form of .bin, which torch loads
whole); what the parity check loads is bounded.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import onnx
import torch

from export.folder import move, workplace
from export.graphs import attach, model_graphs, tower_of
from export.joint import join_projections
from export.parity import check_parity
from export.quality import compare, run_decoder
from export.quantize import Packing, quantize_graphs
from export.weights import bring_weights, find_weights
from models.checkpoint import read_config, weight_files
from models.errors import ModelError
from models.inspection import Header, headers
from models.llama import LlamaDecoder
from models.manifest import FORMAT, MANIFEST
from models.networks import Network, network_of
from models.prompts import PROMPTS, QUESTION, check_prompt
from models.stored import StoredTensor, sha256
from models.tokenizer import load_tokenizer

Compute = Literal["float32", "float16", "bfloat16"]
# Allowed between torch in float32 and the graphs; float16's is relative to a stage's largest value.
TOLERANCES: dict[Compute, float] = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 1e-4}
WHOLE_PARAMETERS = 300_000_000  # up to so many the parity check runs the whole network: about 6 GB
PART_LAYERS = 1  # of a larger one's decoder it runs so many layers, with all of the vision side
_STORAGE = {"F16": "float16", "BF16": "bfloat16", "F32": "float32"}


def export_checkpoint(
    checkpoint: Path,
    out: Path,
    s_max: int | None = None,
    *,
    max_new_tokens: int = 64,
    demo: bool = False,
    name: str | None = None,
    compute: Compute = "float32",
    packing: Packing | None = None,
    report: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Export an EventGPT or Video-LLaVA checkpoint folder to a model folder `out`; returns its manifest.

    `out` may be the checkpoint itself, whose own files stay as they are: then graphs, manifest and such weights as are
    not in its safetensors are added. Otherwise it must not exist yet.
    s_max (cache rows) defaults to the demo question's prompt and `max_new_tokens` and 32 drafts in flight, rounded up
    to a multiple of 8. `compute` is what the graphs compute in, whatever the weights are stored in. bfloat16 is for
    TensorRT: ONNX Runtime cannot run it on a CPU, so its parity is that of the same graphs in float32. `packing` (int8,
    int4, fp8) quantises the decoder's weights after the parity check; `quality` in the manifest says what that changed.

    `report` gets one line a stage: the largest difference between torch and ONNX Runtime. Of a model of more than
    WHOLE_PARAMETERS only PART_LAYERS of the decoder are compared; `parity_layers` in the manifest says how many were.
    Raises ModelError or CheckpointError for a checkpoint that cannot be used and for a difference above the tolerance;
    nothing is left behind then.
    """
    checkpoint, out = checkpoint.resolve(), out.resolve()
    config = read_config(checkpoint)
    network = network_of(checkpoint)
    if out != checkpoint and out.exists():
        raise ModelError(f"{out}: exists already; name a new folder or remove it")
    if out == checkpoint and any(file.is_symlink() for file in weight_files(checkpoint)):
        raise ModelError(
            f"{checkpoint}: its weights are links, as in the hub's cache, and graphs cannot point into links; "
            "name another OUT"
        )
    stored = headers(checkpoint)
    model, tower_folder = _blueprint(network, checkpoint, stored)
    sources = find_weights(model, checkpoint, stored, tower_folder, network.names)
    prompt = _prompt(checkpoint, config, model)
    if s_max is None:
        if prompt is None:
            raise ModelError(f"{checkpoint.name}: no tokenizer, so the prompt's length is unknown; give s_max")
        s_max = -(-(prompt["rows"] + max_new_tokens + 32) // 8) * 8
    with workplace(out) as folder:
        weights = bring_weights(checkpoint, sources, network.names, folder, in_place=out == checkpoint)
        llama, clip = model.decoder.config, tower_of(model).config
        embedding = weights["decoder.model.embed_tokens.weight"]
        manifest: dict[str, Any] = {
            "format": FORMAT,
            "role": network.role,
            "name": name or checkpoint.name,
            "demo": demo,
            "network": config["model_type"],
            "weights": _hashes({tensor.file for tensor in weights.values()}),
            "graphs": {},
            "precision": {
                "storage": _STORAGE.get(embedding.dtype),
                "compute": compute,
                **({"weights": packing} if packing else {}),
            },
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
                "cache": compute,
            },
            "embedding": {"file": embedding.file.name, "tensor": embedding.name},
            "prompt": prompt,
            "tools": {tool: version(tool) for tool in ("torch", "onnx", "onnxscript", "onnxruntime")},
        }
        layers = llama.num_hidden_layers
        if sum(value.numel() for value in model.parameters()) > WHOLE_PARAMETERS:
            layers = min(layers, PART_LAYERS)
            report(f"parity: all of the vision side, {layers} of {llama.num_hidden_layers} decoder layers")
        part = layers < llama.num_hidden_layers
        dtype = torch.float16 if compute == "float16" else torch.float32
        checked: Compute = "float32" if compute == "bfloat16" else compute
        traced, _ = _blueprint(network, checkpoint, stored, layers)
        _write_graphs(traced.to(dtype), network.frames, s_max, weights, folder)
        manifest["parity"] = check_parity(
            _part_of(network, checkpoint, stored, weights, layers) if part else network.load(checkpoint),
            folder,
            manifest | {"decoder": manifest["decoder"] | {"layers": layers, "cache": checked}},
            TOLERANCES[compute],
            report,
            relative=part or compute == "float16",
        )
        manifest["parity_layers"] = layers
        if compute == "bfloat16":
            dtype = torch.bfloat16
        if part or compute == "bfloat16":
            _write_graphs(model.to(dtype), network.frames, s_max, weights, folder)
        if packing:
            small = not part and compute != "bfloat16"
            before = run_decoder(folder, manifest) if small else None
            manifest["weights"] |= _hashes([_quantize(folder, weights, packing)])
            if before is not None:
                manifest["quality"] = compare(before, run_decoder(folder, manifest), packing, report)
        manifest["graphs"] = _hashes(folder.glob("*.onnx"))
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        move(folder, out, checkpoint, clip)
    return manifest


def _blueprint(
    network: Network, checkpoint: Path, stored: Mapping[str, Header], layers: int | None = None
) -> tuple[Any, Path | None]:
    """The network on the meta device, its decoder cut to so many layers, and the CLIP folder that its tower is in."""
    model, tower = network.blueprint(checkpoint, stored, torch.float32)
    if layers is not None:
        with torch.device("meta"):
            model.decoder = LlamaDecoder(replace(model.decoder.config, num_hidden_layers=layers))
    return model, tower


def _write_graphs(model: Any, frames: int, s_max: int, weights: Mapping[str, StoredTensor], folder: Path) -> None:
    for name, graph in model_graphs(model, frames, s_max).items():
        attach(graph, weights, "vision." if name == "vision" else "decoder.")
        join_projections(graph)
        onnx.save_model(graph, folder / f"{name}.onnx")


def _quantize(folder: Path, weights: Mapping[str, StoredTensor], packing: Packing) -> Path:
    """Rewrite both decoder graphs in a folder to quantised weights; the file that holds these."""
    file = folder / f"decoder.{packing}.safetensors"
    graphs = {
        name: onnx.load(folder / f"{name}.onnx", load_external_data=False) for name in ("decoder", "decoder_tree")
    }
    quantize_graphs(graphs, weights, packing, file)
    for name, graph in graphs.items():
        onnx.save_model(graph, folder / f"{name}.onnx")
    return file


def _part_of(
    network: Network, checkpoint: Path, stored: Mapping[str, Header], weights: Mapping[str, StoredTensor], layers: int
) -> Any:
    """The torch network with the first layers of its decoder alone, from the weights as they were brought."""
    model, _ = _blueprint(network, checkpoint, stored, layers)
    state = {ours: torch.from_numpy(weights[ours].read()) for ours in model.state_dict()}
    model.load_state_dict(state, assign=True)
    return model.eval()


def _hashes(files: Iterable[Path]) -> dict[str, Any]:
    return {file.name: {"bytes": file.stat().st_size, "sha256": sha256(file)} for file in sorted(files)}


def _prompt(checkpoint: Path, config: Mapping[str, Any], model: Any) -> dict[str, Any] | None:
    """The demo question's prompt in rows, for the manifest; None without a tokenizer.

    Raises ModelError for another checkpoint's tokenizer.
    """
    if not any((checkpoint / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        return None
    tokenizer = load_tokenizer(checkpoint)
    prompt = PROMPTS[config["model_type"]](tokenizer, QUESTION, model.visual_tokens)
    check_prompt(prompt, tokenizer, model.decoder.config.vocab_size, config, checkpoint)
    return {"question": QUESTION, "head": len(prompt.head_ids), "tail": len(prompt.tail_ids), "rows": len(prompt)}
