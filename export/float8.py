"""Weight-only fp8 (E4M3) for the decoder's linear maps: a scale a row, standard ONNX (DequantizeLinear), uncalibrated.

GPUs have it from compute capability 8.9 on (Ada, Hopper, Blackwell). ONNX Runtime's CPU runs the same graph, slowly:
that is where the quality report comes from.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from models.stored import StoredTensor

MOST = 448.0  # the largest number of E4M3


def to_float8(matrix: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """A linear map [N, K] as bytes of E4M3 [K, N] and one scale for each of its rows [N]."""
    scales = np.maximum(np.abs(matrix).max(1) / MOST, np.float32(1e-7)).astype(np.float32)
    rounded = (matrix / scales[:, None]).astype(ml_dtypes.float8_e4m3fn)
    return np.ascontiguousarray(rounded.view(np.uint8).T), scales


def use_float8(graph: onnx.ModelProto, product: onnx.NodeProto, values: StoredTensor, scales: StoredTensor) -> None:
    """Let a product take its parameters from fp8 [K, N] and scales [N]."""
    computed = TensorProto.FLOAT16 if scales.dtype == "F16" else TensorProto.FLOAT
    for stored, kind in ((values, TensorProto.FLOAT8E4M3FN), (scales, computed)):
        tensor = TensorProto(name=stored.name, dims=stored.shape, data_type=kind, data_location=TensorProto.EXTERNAL)
        place = {"location": stored.file.name, "offset": stored.offset, "length": stored.length}
        for key, entry in place.items():
            tensor.external_data.add(key=key, value=str(entry))
        graph.graph.initializer.append(tensor)
    wide = f"{values.name}.wide"
    graph.graph.node.insert(0, helper.make_node("DequantizeLinear", [values.name, scales.name], [wide], axis=1))
    product.input[1] = wide


def is_float8(graph: onnx.ModelProto) -> bool:
    """Whether a graph's weights are fp8."""
    return any(tensor.data_type == TensorProto.FLOAT8E4M3FN for tensor in graph.graph.initializer)
