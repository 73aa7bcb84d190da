"""The three graphs of a model as ONNX, opset 24, without weights: each parameter is external data in the checkpoint.

torch.onnx.export sees the parameters as *inputs*, so no optimiser can fold, merge or rename them; afterwards each
becomes an initializer that points by offset into a safetensors file, with a Cast where it is stored in another type
than the graph computes in. ONNX Runtime folds the casts and transposes once, when it loads the graph. Pixels,
embeddings, tokens and logits are float32 whatever it computes in; the caches are not.

Networks are traced on fake tensors, which have a shape, a dtype and no memory: 7B takes no more than a toy.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from typing import Any, cast

import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from models.clip import ClipVision
from models.errors import ModelError
from models.llama import OPSET, LlamaDecoder, TreeDecoder
from models.stored import StoredTensor

_ROWS = {0: torch.export.Dim.DYNAMIC}
_DTYPES = {"F32": TensorProto.FLOAT, "F16": TensorProto.FLOAT16, "BF16": TensorProto.BFLOAT16}


def model_graphs(network: Any, frames: int, s_max: int) -> dict[str, onnx.ModelProto]:
    """`vision`, `decoder` and `decoder_tree` of a network made on the meta device, which is of no other use after.

    They compute in the type of its parameters, float32 or float16.
    """
    with FakeTensorMode(allow_non_fake_inputs=True):
        network.to_empty(device="cpu")  # fake tensors, which are not
        network.eval().requires_grad_(False)
        return {"vision": _vision(network, frames), **decoder_graphs(network.decoder, s_max)}


def decoder_graphs(decoder: LlamaDecoder, s_max: int) -> dict[str, onnx.ModelProto]:
    """`decoder` and `decoder_tree` of a decoder whose parameters have no memory."""
    return {"decoder": _causal(decoder, s_max), "decoder_tree": _tree(decoder, s_max)}


def tower_of(network: Any) -> ClipVision:
    """The CLIP tower of either network."""
    vision = network.vision
    return cast(ClipVision, vision.visual_tower if hasattr(vision, "visual_tower") else vision.video_tower)


def cache_names(layers: int) -> list[str]:
    """Names of the caches in order: key_0, value_0, key_1, …"""
    return [f"{kind}_{layer}" for layer in range(layers) for kind in ("key", "value")]


def attach(graph: onnx.ModelProto, weights: Mapping[str, StoredTensor], prefix: str) -> None:
    """Turn each parameter input into an initializer inside its safetensors file, `weights[prefix + its name]`."""
    parameters = [value for value in graph.graph.input if "." in value.name]
    used = {name for node in graph.graph.node for name in node.input}
    for value in parameters:
        graph.graph.input.remove(value)
        if value.name not in used:
            continue  # the embedding table: the runtime reads its rows from the checkpoint
        stored = weights[prefix + value.name]
        shape = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        if stored.dtype not in _DTYPES or stored.shape != shape:
            raise ModelError(
                f"{stored.file.name}: tensor {stored.name} is {stored.dtype} {list(stored.shape)}; "
                f"float16, bfloat16 or float32 {list(shape)} expected"
            )
        computed = value.type.tensor_type.elem_type
        other = _DTYPES[stored.dtype] != computed
        tensor = TensorProto(
            name=value.name + (".stored" if other else ""),
            data_type=_DTYPES[stored.dtype],
            dims=shape,
            data_location=TensorProto.EXTERNAL,
        )
        place = {"location": stored.file.name, "offset": stored.offset, "length": stored.length}
        for key, entry in place.items():
            tensor.external_data.add(key=key, value=str(entry))
        graph.graph.initializer.append(tensor)
        if other:
            graph.graph.node.insert(0, helper.make_node("Cast", [tensor.name], [value.name], to=computed))


class _WithParameters(nn.Module):
    """A module whose parameters come as an argument of its forward pass; its first input and output are float32."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._held = (module,)  # in a tuple, so that its parameters are not this module's own

    def forward(self, parameters: dict[str, Tensor], inputs: tuple[Any, ...]) -> Any:
        first = inputs[0].to(next(iter(parameters.values())).dtype)
        outputs = torch.func.functional_call(self._held[0], parameters, (first, *inputs[1:]))
        return outputs.float() if isinstance(outputs, Tensor) else (outputs[0].float(), *outputs[1:])


def _vision(network: Any, frames: int) -> onnx.ModelProto:
    """pixels [N, 3, S, S] to tokens [V, D]; N is any number, or `frames` alone for a tower that attends over time."""
    tower = tower_of(network)
    example = (torch.zeros(frames, 3, tower.config.image_size, tower.config.image_size),)
    shapes: dict[int, Any] = _ROWS if tower.temporal_frames is None else {}
    return _export(network.vision, example, (shapes,), ["pixels"], ["tokens"])


def _causal(decoder: LlamaDecoder, s_max: int) -> onnx.ModelProto:
    """Embeddings [T, D], positions [T], write [1], valid [1], rows [R] and caches to logits [R, V]."""
    return _decoder(decoder, decoder, s_max, "valid", torch.tensor([12]), {})


def _tree(decoder: LlamaDecoder, s_max: int) -> onnx.ModelProto:
    """The same with a `mask` [T, S_max] (bool) in place of `valid`."""
    mask = torch.ones(5, s_max, dtype=torch.bool)
    graph = _decoder(decoder, TreeDecoder(decoder), s_max, "mask", mask, _ROWS)
    for value in list(graph.graph.input):  # the parameters' names, without the wrapper's
        renamed = value.name.removeprefix("decoder.")
        for node in graph.graph.node:
            node.input[:] = [renamed if name == value.name else name for name in node.input]
        value.name = renamed
    return graph


def _decoder(
    decoder: LlamaDecoder, module: nn.Module, s_max: int, name: str, value: Tensor, shape: dict[int, Any]
) -> onnx.ModelProto:
    caches, width = decoder.empty_caches(s_max), decoder.config.hidden_size
    example = (torch.zeros(5, width), torch.arange(5) + 7, torch.tensor([7]), value, torch.tensor([3, 4]), caches)
    shapes: tuple[Any, ...] = (_ROWS, _ROWS, {}, shape, _ROWS, tuple({} for _ in caches))
    names = cache_names(len(caches) // 2)
    return _export(
        module,
        example,
        shapes,
        ["embeddings", "positions", "write", name, "rows", *names],
        ["logits", *(f"new_{cache}" for cache in names)],
    )


def _export(
    module: nn.Module, example: tuple[Any, ...], shapes: tuple[Any, ...], inputs: list[str], outputs: list[str]
) -> onnx.ModelProto:
    parameters = {name: value.detach() for name, value in module.named_parameters()}
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)  # "no torchvision"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own deprecations
        program = torch.onnx.export(
            _WithParameters(module),
            (parameters, example),
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=({name: {} for name in parameters}, shapes),
            input_names=[*parameters, *inputs],
            output_names=outputs,
            verbose=False,
        )
    assert program is not None  # it is None for the old exporter only
    return _bare(program.model_proto)


def _bare(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Without torch's notes (stack traces with local paths), so that one checkpoint gives one graph anywhere."""
    del graph.metadata_props[:], graph.graph.metadata_props[:], graph.graph.value_info[:]
    graph.graph.doc_string = ""
    for part in (*graph.graph.node, *graph.graph.input, *graph.graph.output, *graph.graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    return graph
