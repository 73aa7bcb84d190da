"""A mid-size export that computes in float16 equals PyTorch, within 1 % of each stage's largest value."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

from export.checkpoint import TOLERANCES, export_checkpoint
from models.manifest import MANIFEST
from models.runtimes.onnx import DecoderSizes, OnnxDecoder, OnnxVision
from models.stored import stored_tensors, write_tensors
from models.video_llava import NAMES, VideoLlava
from tests.models.published import random_values

TEXT = {
    "vocab_size": 1000, "hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 4,
    "num_attention_heads": 8, "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "max_position_embeddings": 512,
}  # fmt: skip
VISION = {
    "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 4, "image_size": 56,
    "patch_size": 14, "hidden_act": "quick_gelu",
}  # fmt: skip
S_MAX = 256


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four decoder layers of 512, float16 from end to end, with its checkpoint beside the graphs."""
    folder = tmp_path_factory.mktemp("float16") / "target"
    folder.mkdir()
    config = {"model_type": "video_llava", "text_config": TEXT, "vision_config": VISION, "vision_feature_layer": -2}
    (folder / "config.json").write_text(json.dumps(config))
    model, _ = VideoLlava.blueprint(folder, {}, torch.float32)
    shapes = {NAMES.published(name, []): ("F16", tuple(value.shape)) for name, value in model.state_dict().items()}
    write_tensors(folder / "model.safetensors", shapes, random_values(list(shapes), shapes))
    export_checkpoint(folder, folder, S_MAX, compute="float16", report=lambda line: None)
    return folder


def test_it_equals_pytorch_in_float16_and_in_float32(exported: Path) -> None:
    manifest = json.loads((exported / MANIFEST).read_text())
    assert manifest["precision"] == {"storage": "float16", "compute": "float16"}
    assert max(manifest["parity"].values()) <= TOLERANCES["float16"]
    embedding = stored_tensors(exported / "model.safetensors")[manifest["embedding"]["tensor"]]
    decoder = OnnxDecoder(exported, DecoderSizes(s_max=S_MAX, **manifest["decoder"]), embedding)
    pixels = np.random.default_rng(1).standard_normal((8, 3, 56, 56), np.float32)
    tokens = OnnxVision(exported / "vision.onnx").encode(pixels, 1)
    logits = decoder.forward(tokens, 0, np.arange(len(tokens)), 1)
    for dtype in (torch.float16, torch.float32):
        model = VideoLlava.load(exported, dtype)
        with torch.inference_mode():
            theirs = model.vision(torch.from_numpy(pixels).to(dtype))
            rows = len(theirs)
            expected = model.decoder(
                theirs,
                torch.arange(rows),
                torch.tensor([0]),
                torch.tensor([rows]),
                torch.arange(rows),
                model.decoder.empty_caches(S_MAX),
            )[0]
        for ours, wanted in ((tokens, theirs.float().numpy()), (logits, expected.float().numpy())):
            assert np.abs(ours - wanted).max() <= TOLERANCES["float16"] * np.abs(wanted).max()


def test_nothing_is_widened_but_the_edges(exported: Path) -> None:
    """Weights go into the products as they are stored; only embeddings and logits are cast."""
    graph = onnx.load(exported / "decoder.onnx", load_external_data=False).graph
    weights = [tensor for tensor in graph.initializer if tensor.external_data]
    assert weights
    assert {tensor.data_type for tensor in weights} == {TensorProto.FLOAT16}
    stored = {tensor.name for tensor in weights}
    assert not [node for node in graph.node if node.op_type == "Cast" and node.input[0] in stored]
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)}
    assert {kinds["embeddings"], kinds["logits"]} == {TensorProto.FLOAT}
    assert {kinds["key_0"], kinds["new_value_3"]} == {TensorProto.FLOAT16}
