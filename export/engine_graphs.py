"""The graph that TensorRT reads for a precision: the exported one, or one with its weights spelled as TensorRT wants.

Block-quantised weights become int4 or int8 behind DequantizeLinear (standard ONNX), in a file beside the graph: a
protobuf ends at 2 GB. Weights in fp8 are exported that way already.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.float8 import is_float8
from export.quantize import DOMAIN, unpack
from models.runtimes.nvidia import GpuError

_CACHE = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


def engine_graph(path: Path, precision: str, temporary: Path) -> Path:
    """The file to parse for `path` in a precision; new files go to `temporary`. Raises GpuError for another's graph."""
    try:
        graph = onnx.load(path, load_external_data=False)
    except (OSError, DecodeError):
        raise GpuError(f"{path.name}: cannot be read; export the checkpoint again") from None
    _check_compute(graph, path, precision)
    packed = any(node.domain == DOMAIN for node in graph.graph.node)
    decoder = any(value.name == "key_0" for value in graph.graph.input)
    if decoder and (packed, is_float8(graph)) != (precision in ("int8", "int4"), precision == "fp8"):
        raise GpuError(
            f"{path.name}: was not exported in {precision}; export the checkpoint with --precision {precision}"
        )
    if not packed:
        return path
    onnx.load_external_data_for_model(graph, str(path.parent))
    _dequantize(graph, 4 if precision == "int4" else 8)
    out = temporary / path.name
    onnx.save_model(graph, out, save_as_external_data=True, location=f"{path.stem}.weights", size_threshold=1024)
    return out


def _check_compute(graph: onnx.ModelProto, path: Path, precision: str) -> None:
    cache = next((value for value in graph.graph.input if value.name == "key_0"), None)
    wanted = _CACHE.get(precision, TensorProto.FLOAT16)
    if cache is not None and cache.type.tensor_type.elem_type != wanted:
        kinds = {TensorProto.FLOAT: "float32", TensorProto.FLOAT16: "float16", TensorProto.BFLOAT16: "bfloat16"}
        found = kinds.get(cache.type.tensor_type.elem_type, "another type")
        raise GpuError(
            f"{path.name}: computes in {found}, {precision} needs {kinds[wanted]}; export the checkpoint with "
            f"--runtime tensorrt --precision {precision}"
        )


def _dequantize(graph: onnx.ModelProto, bits: int) -> None:
    """Each MatMulNBits as DequantizeLinear and MatMul: the same numbers in standard ONNX."""
    constants = {tensor.name: tensor for tensor in graph.graph.initializer}
    nodes = []
    for node in graph.graph.node:
        if node.domain != DOMAIN:
            nodes.append(node)
            continue
        blocks, scales = constants[node.input[1]], constants[node.input[2]]
        factors = numpy_helper.to_array(scales)  # [N, K / block]
        numbers = unpack(numpy_helper.to_array(blocks), bits)  # [N, K]
        if bits == 8:
            numbers, factors = _positive(numbers, factors)
        numbers = np.ascontiguousarray(numbers.T)
        block = next(entry.i for entry in node.attribute if entry.name == "block_size")
        turned = numpy_helper.from_array(np.ascontiguousarray(factors.T), scales.name)
        whole = _whole_numbers(numbers, bits, blocks.name)
        graph.graph.initializer.remove(blocks)
        graph.graph.initializer.remove(scales)
        graph.graph.initializer.extend([whole, turned])
        name = node.output[0]
        nodes += [
            helper.make_node(
                "DequantizeLinear", [whole.name, turned.name], [f"{name}.weights"], axis=0, block_size=block
            ),
            helper.make_node("MatMul", [node.input[0], f"{name}.weights"], [name]),
        ]
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)


def _positive(numbers: NDArray[np.int8], factors: NDArray[Any]) -> tuple[NDArray[np.int8], NDArray[Any]]:
    """The same with positive scales, which is all that TensorRT takes for int8.

    The quantiser gives a block the sign that makes its largest value -128; turned, that one becomes 127.
    """
    signs = np.repeat(np.where(factors < 0, -1, 1), numbers.shape[1] // factors.shape[1], axis=1)
    return np.clip(numbers.astype(np.int16) * signs, -128, 127).astype(np.int8), np.abs(factors)


def _whole_numbers(numbers: NDArray[np.int8], bits: int, name: str) -> TensorProto:
    """int8 [K, N] as a tensor of so many bits; two int4 to a byte, the first one low."""
    if bits == 8:
        return numpy_helper.from_array(numbers, name)
    flat = numbers.reshape(-1).view(np.uint8) & 15
    data = (flat[0::2] | flat[1::2] << 4).tobytes()
    return TensorProto(name=name, dims=numbers.shape, data_type=TensorProto.INT4, raw_data=data)
