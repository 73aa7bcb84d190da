"""The activations inside an exported vision graph, for comparison: the graph itself with more outputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from models.errors import ModelError
from models.runtimes.contract import Floats
from models.runtimes.onnx import Sessions

# Of each role: (name in golden files, "into" or "out of", the linear map that has the activation as input or output).
_POINTS = {
    "drafter": (
        ("clip_last_hidden_state", "into", "visual_projector.0"),
        ("projector_out", "out of", "visual_projector.2"),
        ("adaptor_out", "out of", "feature_adaptor"),
        ("pooled", "out of", ""),
    ),
    "target": (
        ("vision_selected_hidden", "into", "multi_modal_projector.linear_1"),
        ("video_features", "out of", ""),
    ),
}


def open_stages(folder: Path, role: str, visual: str) -> Callable[[Floats], dict[str, Floats]]:
    """A function from pixels [N, 3, S, S] to the activations of `vision.onnx` by name; `visual` names its own output.

    Writes `vision_stages.onnx` beside it. Raises ModelError for a graph that has not those maps.
    """
    graph = onnx.load(folder / "vision.onnx", load_external_data=False)
    outputs = {}
    for name, side, linear in _POINTS[role]:
        outputs[name] = _activation(graph, side, linear) if linear else "tokens"
    for value in sorted(set(outputs.values()) - {"tokens"}):
        graph.graph.output.append(helper.make_tensor_value_info(value, TensorProto.FLOAT, None))
    path = folder / "vision_stages.onnx"
    onnx.save_model(graph, path)
    session = Sessions(path).get(1)
    names = list(outputs)

    def stages(pixels: Floats) -> dict[str, Floats]:
        values = session.run(["tokens", *(outputs[name] for name in names)], {"pixels": pixels})
        return {visual: values[0]} | dict(zip(names, values[1:], strict=True))

    return stages


def _activation(graph: onnx.ModelProto, side: str, linear: str) -> str:
    """The graph's name of a linear map's input, or of its output: what the addition of its bias gives."""
    nodes = list(graph.graph.node)
    made_from = {node.output[0]: node.input[0] for node in nodes if node.op_type == "Transpose"}
    for node in nodes:
        if side == "out of" and f"{linear}.bias" in node.input:
            return str(node.output[0])
        if side == "into" and any(made_from.get(name, name) == f"{linear}.weight" for name in node.input[1:]):
            return str(node.input[0])
    raise ModelError(f"vision.onnx: no linear map {linear}; export the checkpoint again")
