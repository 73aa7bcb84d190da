"""A decoder of any shape with random weights, as exported graphs: a twin of a checkpoint that nobody has to download.

What the suite builds engines of, and the GPU checks measure; few layers of full width stand for all of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from export.graphs import attach, decoder_graphs
from export.joint import join_projections
from export.quantize import Packing, quantize_graphs
from models.llama import LlamaConfig, LlamaDecoder
from models.stored import stored_tensors, write_tensors


def write_twin(folder: Path, config: LlamaConfig, s_max: int, packing: Packing | None = None) -> dict[str, Any]:
    """`decoder.onnx` and `decoder_tree.onnx` in float16 and their weights; what of a manifest an engine needs."""
    folder.mkdir(parents=True, exist_ok=True)
    with torch.device("meta"):
        decoder = LlamaDecoder(config).half().requires_grad_(False)
        shapes = {name: tuple(value.shape) for name, value in decoder.state_dict().items()}
    with FakeTensorMode(allow_non_fake_inputs=True):
        decoder.to_empty(device="cpu")
        graphs = decoder_graphs(decoder, s_max)
    random = np.random.default_rng(0)
    values = (
        (random.standard_normal(shape, np.float32) * (0.02 if len(shape) > 1 else 1)).astype(np.float16)
        for shape in shapes.values()
    )
    file = folder / "model.safetensors"
    write_tensors(file, {name: ("F16", shape) for name, shape in shapes.items()}, values)
    weights = {f"decoder.{name}": tensor for name, tensor in stored_tensors(file).items()}
    for graph in graphs.values():
        attach(graph, weights, "decoder.")
        join_projections(graph)
    if packing:
        quantize_graphs(graphs, weights, packing, folder / f"decoder.{packing}.safetensors")
    for name, graph in graphs.items():
        onnx.save_model(graph, folder / f"{name}.onnx")
    sizes = {
        "layers": config.num_hidden_layers, "kv_heads": config.num_key_value_heads, "head_dim": config.head_dim,
        "width": config.hidden_size, "vocabulary": config.vocab_size, "cache": "float16",
    }  # fmt: skip
    embedding = {"file": file.name, "tensor": "model.embed_tokens.weight"}
    return {"s_max": s_max, "decoder": sizes, "embedding": embedding}
