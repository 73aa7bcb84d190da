"""Weight-only int8, int4 and fp8 for the decoder's linear maps; of int8 and int4 a scale for each block of a row.

Their numbers are made by ONNX Runtime's own quantiser and the graphs use its operator MatMulNBits, which it runs on the
CPU and on GPUs; `engine_graphs` spells the same numbers as DequantizeLinear for TensorRT. Head, embedding table, norms,
caches and the vision side keep their precision. One matrix is in memory at a time.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from export.float8 import to_float8, use_float8
from models.errors import ModelError
from models.stored import StoredTensor, stored_tensors, write_tensors

Bits = Literal[4, 8]
Packing = Literal["int8", "int4", "fp8"]
BITS: dict[str, Bits] = {"int8": 8, "int4": 4}
DOMAIN = "com.microsoft"
BLOCKS = (128, 64, 32)  # the largest that divides a row; TensorRT wants 64 or 128 for int4


def quantize_graphs(
    graphs: Mapping[str, onnx.ModelProto], weights: Mapping[str, StoredTensor], packing: Packing, file: Path
) -> None:
    """Replace the products with parameters in `decoder` and `decoder_tree` and write the packed weights to `file`.

    The graphs are as `attach` and `join_projections` left them; both share one copy. Raises ModelError for a row that
    no block size divides.
    """
    plans = {name: _products(graph) for name, graph in graphs.items()}
    first = next(iter(plans.values()))
    kind = "F16" if _computes_in_half(next(iter(graphs.values()))) else "F32"
    bits = BITS.get(packing)
    shapes: dict[str, tuple[str, tuple[int, ...]]] = {}
    for key, (_, parameters) in first.items():
        rows = sum(weights[f"decoder.{parameter}"].shape[0] for parameter in parameters)
        columns = weights[f"decoder.{parameters[0]}"].shape[1]
        if bits is None:
            shapes[f"{key}.blocks"], shapes[f"{key}.scales"] = ("F8_E4M3", (columns, rows)), (kind, (rows,))
            continue
        block = block_of(columns, key)
        shapes[f"{key}.blocks"] = ("U8", (rows, columns // block, block * bits // 8))
        shapes[f"{key}.scales"] = (kind, (rows, columns // block))

    def values() -> Iterator[NDArray[Any]]:
        for _, parameters in first.values():
            wide = np.concatenate([weights[f"decoder.{parameter}"].read() for parameter in parameters])
            packed, scales = quantize_matrix(wide, bits) if bits else to_float8(wide)
            yield packed
            yield scales.astype(np.float16 if kind == "F16" else np.float32)

    write_tensors(file, shapes, values())
    stored = stored_tensors(file)
    for name, graph in graphs.items():
        for key, (product, _) in plans[name].items():
            blocks, scales = stored[f"{key}.blocks"], stored[f"{key}.scales"]
            if bits:
                _replace(graph, product, blocks, scales, bits)
            else:
                use_float8(graph, product, blocks, scales)
        if bits:
            graph.opset_import.append(helper.make_opsetid(DOMAIN, 1))
        _prune(graph)


def quantize_matrix(matrix: NDArray[np.float32], bits: Bits) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """A linear map [N, K] in MatMulNBits' layout: packed [N, K / block, block * bits / 8] and scales [N, K / block]."""
    made = _quantizer()
    config = made.DefaultWeightOnlyQuantConfig(
        block_size=block_of(matrix.shape[1], "matrix"), is_symmetric=True, bits=bits
    )
    packed, scales, _ = made.DefaultWeightOnlyQuantizer(config).qbits_block_quant(np.ascontiguousarray(matrix.T))
    return packed, scales.reshape(packed.shape[:2])


def _quantizer() -> Any:
    """The quantiser's module, which must not keep what its import does to the root logger: INFO from every library."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        from onnxruntime.quantization import matmul_nbits_quantizer
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    return matmul_nbits_quantizer


def unpack(packed: NDArray[np.uint8], bits: int) -> NDArray[np.int8]:
    """The signed whole numbers [N, K] of packed blocks; a value is number × its block's scale."""
    if bits == 4:
        packed = np.stack([packed & 15, packed >> 4], -1)
    return (packed.reshape(len(packed), -1).astype(np.int16) - (1 << bits - 1)).astype(np.int8)


def block_of(columns: int, where: str) -> int:
    """The block size for rows of so many values. Raises ModelError."""
    for block in BLOCKS:
        if columns % block == 0:
            return block
    raise ModelError(f"{where}: rows of {columns} values are no multiple of {BLOCKS[-1]}; export in fp16 instead")


def _products(graph: onnx.ModelProto) -> dict[str, tuple[onnx.NodeProto, list[str]]]:
    """Products with parameters by a key made of their names, the head excepted: the node, and the parameters joined."""
    maker = {output: node for node in graph.graph.node for output in node.output}
    found = {}
    for node in graph.graph.node:
        turned = maker.get(node.input[1]) if node.op_type == "MatMul" else None
        if turned is None or turned.op_type != "Transpose":
            continue
        source = maker.get(turned.input[0])
        names = list(source.input) if source is not None and source.op_type == "Concat" else [turned.input[0]]
        if all(name.endswith(".weight") for name in names) and not names[0].startswith("lm_head"):
            found["+".join(names)] = (node, names)
    return found


def _computes_in_half(graph: onnx.ModelProto) -> bool:
    cache = next(value for value in graph.graph.input if value.name == "key_0")
    return bool(cache.type.tensor_type.elem_type == TensorProto.FLOAT16)


def _replace(
    graph: onnx.ModelProto, product: onnx.NodeProto, blocks: StoredTensor, scales: StoredTensor, bits: Bits
) -> None:
    rows, count, width = blocks.shape
    block = width * 8 // bits
    node = helper.make_node(
        "MatMulNBits", [product.input[0], blocks.name, scales.name], list(product.output), domain=DOMAIN,
        K=count * block, N=rows, bits=bits, block_size=block,
    )  # fmt: skip
    product.CopyFrom(node)
    for stored, kind in ((blocks, TensorProto.UINT8), (scales, None)):
        tensor = TensorProto(name=stored.name, dims=stored.shape, data_location=TensorProto.EXTERNAL)
        tensor.data_type = kind or (TensorProto.FLOAT16 if stored.dtype == "F16" else TensorProto.FLOAT)
        place = {"location": stored.file.name, "offset": stored.offset, "length": stored.length}
        for key, entry in place.items():
            tensor.external_data.add(key=key, value=str(entry))
        graph.graph.initializer.append(tensor)


def _prune(graph: onnx.ModelProto) -> None:
    """Leave out nodes and initializers that nothing reads any more."""
    outputs = {value.name for value in graph.graph.output}
    while True:
        used = outputs | {name for node in graph.graph.node for name in node.input}
        idle = [node for node in graph.graph.node if not used & set(node.output)]
        if not idle:
            break
        for node in idle:
            graph.graph.node.remove(node)
    for tensor in [tensor for tensor in graph.graph.initializer if tensor.name not in used]:
        graph.graph.initializer.remove(tensor)
