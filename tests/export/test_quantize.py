"""Weight-only int8 and int4: the numbers, the graphs on ONNX Runtime's CPU, and what the export says of them."""

import json
import logging
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest

from export.checkpoint import export_checkpoint
from export.float8 import to_float8
from export.quantize import block_of, quantize_matrix, unpack
from models.bundle import load_model
from models.errors import ModelError
from models.stored import stored_tensors
from tests.models.tiny import write_checkpoint

pytestmark = pytest.mark.usefixtures("graphs_traced_once")


@pytest.mark.parametrize(("bits", "steps"), [(8, 128), (4, 8)])
def test_packed_numbers_times_scales_are_the_weights(bits: int, steps: int) -> None:
    """Each value is at most half a step, of its block's largest over `steps`, away (the largest: a whole one)."""
    matrix = np.random.default_rng(0).standard_normal((48, 128), np.float32)
    packed, scales = quantize_matrix(matrix, bits)  # type: ignore[arg-type]
    again = unpack(packed, bits) * np.repeat(scales, 128, axis=1)
    assert np.abs(again - matrix).max() <= 1.01 * np.abs(matrix).max() / steps
    assert np.abs(again - matrix).mean() < np.abs(matrix).max() / steps / 2
    assert logging.getLogger().level != logging.INFO  # the quantiser's import turns every library's notes on


def test_fp8_is_within_a_sixteenth_of_each_weight() -> None:
    """E4M3 has three bits of fraction; what is far below a row's largest value is a fixed step of it away."""
    matrix = np.random.default_rng(0).standard_normal((48, 128), np.float32)
    matrix[3] = 0
    values, scales = to_float8(matrix)
    assert (values.shape, values.dtype, scales.shape) == ((128, 48), np.uint8, (48,))
    again = values.T.view(ml_dtypes.float8_e4m3fn).astype(np.float32) * scales[:, None]
    assert np.all(np.abs(again - matrix) <= np.maximum(np.abs(matrix) / 16, scales[:, None] * 2**-9))
    assert np.all(again[3] == 0)


def test_an_fp8_export_runs_on_the_cpu_and_says_what_it_changed(tmp_path: Path) -> None:
    checkpoint, lines = write_checkpoint(tmp_path / "checkpoint", "drafter"), []
    manifest = export_checkpoint(checkpoint, tmp_path / "out", 160, packing="fp8", report=lines.append)
    assert manifest["precision"]["weights"] == "fp8"
    assert lines[-1].startswith("quality fp8: logits differ by ")
    assert 0 < manifest["quality"]["logit_error"] < 0.2
    assert manifest["quality"]["token_agreement"] > 0.8
    stored = stored_tensors(tmp_path / "out/decoder.fp8.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {"F8_E4M3", "F32"}
    model = load_model(tmp_path / "out", "drafter")
    x = model.decoder.embed(np.arange(12))
    whole = model.decoder.forward(x, 0, np.arange(12), 1)
    tree = model.decoder.forward_tree(x[6:], np.arange(6, 12), np.tri(6, dtype=np.bool_), 6, np.arange(6), 1)
    np.testing.assert_allclose(tree, whole[6:], rtol=0, atol=1e-4 * float(np.abs(whole).max()))


def test_blocks_fit_the_rows() -> None:
    assert [block_of(columns, "x") for columns in (4096, 11008, 192, 32)] == [128, 128, 64, 32]
    with pytest.raises(ModelError, match="down_proj: rows of 40 values are no multiple of 32; export in fp16 instead"):
        block_of(40, "down_proj")


def test_an_int4_export_runs_and_says_what_it_changed(tmp_path: Path) -> None:
    checkpoint, lines = write_checkpoint(tmp_path / "checkpoint", "drafter"), []
    manifest = export_checkpoint(checkpoint, tmp_path / "out", 160, packing="int4", report=lines.append)
    assert manifest["precision"] == {"storage": "float16", "compute": "float32", "weights": "int4"}
    assert lines[-1].startswith("quality int4: logits differ by ")
    assert 0 < manifest["quality"]["logit_error"] < 0.6
    assert manifest["quality"]["token_agreement"] > 0.5
    graph = onnx.load(tmp_path / "out/decoder.onnx", load_external_data=False)
    kinds = [node.op_type for node in graph.graph.node]
    assert kinds.count("MatMulNBits") == 4 * 2  # a layer: query + key + value, output, gate + up, down
    assert (kinds.count("MatMul"), kinds.count("Gemm")) == (0, 1)  # the head keeps its precision
    stored = stored_tensors(tmp_path / "out/decoder.int4.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {"U8", "F32"}
    model = load_model(tmp_path / "out", "drafter")  # the file's hash is in the manifest
    x = model.decoder.embed(np.arange(12))
    whole = model.decoder.forward(x, 0, np.arange(12), 1)
    mask = np.tril(np.ones((6, 6), np.bool_))  # the masked form holds the same weights
    tree = model.decoder.forward_tree(x[6:], np.arange(6, 12), mask, 6, np.arange(6), 1)
    np.testing.assert_allclose(tree, whole[6:], rtol=0, atol=1e-4 * float(np.abs(whole).max()))
    (tmp_path / "out/decoder.int4.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match=r"decoder\.int4\.safetensors: 0 bytes, the manifest says"):
        load_model(tmp_path / "out", "drafter")


def test_bfloat16_graphs_are_for_tensorrt(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", "drafter")
    manifest = export_checkpoint(checkpoint, tmp_path / "out", 160, compute="bfloat16", report=lambda line: None)
    assert max(manifest["parity"].values()) <= 1e-4  # of the same graphs in float32
    assert json.loads((tmp_path / "out/manifest.json").read_text())["decoder"]["cache"] == "bfloat16"
    with pytest.raises(ModelError, match="was exported in bfloat16, for runtime: tensorrt"):
        load_model(tmp_path / "out", "drafter")
