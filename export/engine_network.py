"""ONNX to TensorRT engines: strongly typed, an optimisation profile for each kind of pass; no GPU is needed for it.

Two things the parser of TensorRT does not do, and which are done here (seen with TensorRT-RTX 1.7.1, where the engine
would otherwise be built without a word and be wrong): it drops `nonpad_kv_seqlen`, and it aligns the causal mask to
the upper left. Attention is also allowed to be decomposed where there is no fused kernel for a shape, since a build
fails otherwise. TensorRT's calls return None or False when they fail; every one is looked at.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.engine_graphs import engine_graph
from models.runtimes.nvidia import GpuError, quiet_logger, refusal, started, tensorrt

VERIFY_ROWS = 32  # tokens at most in a verify pass, and rows of logits at most in any pass
CACHE_UPDATE, ATTENTION = "KV_CACHE_UPDATE", "ATTENTION_INPUT"  # TensorRT's kinds of layer
_TYPES = {"float16": "HALF", "bfloat16": "BF16"}
Profile = tuple[int, int, int]  # least, usual and most tokens (images, for vision)


@dataclass(frozen=True)
class BuiltEngine:
    """A serialised engine, and what its network was made of."""

    data: memoryview  # of TensorRT's own memory: a 7B engine is not copied
    layers: Mapping[str, int]  # TensorRT's layer kinds and how many there are
    bindings: Mapping[str, tuple[str, tuple[int, ...]]]  # name to data type and shape, -1 where it varies


def build_engine(
    path: Path,
    profiles: list[Profile],
    precision: str,
    capability: str | None = None,
    progress: Callable[[str, int, int], None] = lambda phase, step, steps: None,
) -> BuiltEngine:
    """One engine from one graph file and the weights beside it. Raises GpuError with TensorRT's own last word."""
    trt = tensorrt()
    logger = quiet_logger(trt)
    builder = started(lambda: trt.Builder(logger), "builder")
    typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = started(lambda: builder.create_network(typed), "network")
    config = started(builder.create_builder_config, "builder configuration")
    if hasattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION"):
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)  # else TensorRT-RTX's passes fit no CUDA graph
    if capability:
        _name_target(trt, config, capability)
    config.progress_monitor = _monitor(trt, progress)
    with tempfile.TemporaryDirectory(prefix=".engine.", dir=path.parent) as temporary:
        parser = started(lambda: trt.OnnxParser(network, logger), "parser")
        if not parser.parse_from_file(str(engine_graph(path, precision, Path(temporary)))):
            said = "; ".join(str(parser.get_error(i)) for i in range(min(2, parser.num_errors))) or logger.last
            raise GpuError(
                f"{path.name}: TensorRT cannot read the graph ({' '.join(said.split())[:240]}); export with another "
                "precision"
            )
        _finish_attention(trt, network)
        _add_greedy(trt, network)
        for profile in profiles:
            _add_profile(builder, network, config, profile, path.name)
        serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        raise refusal(
            f"{path.name}: TensorRT built no engine in {precision}", logger.last, "free some memory, or take another "
            "precision",
        )  # fmt: skip
    return BuiltEngine(memoryview(serialized), _kinds(network), _bindings(network))


def check_layers(built: BuiltEngine, manifest: Mapping[str, Any], name: str) -> None:
    """What TensorRT made of the contract: its own cache updates and attentions, and every cache bound in place.

    Raises GpuError: an engine without them would copy the caches in every pass, or be wrong.
    """
    sizes = manifest["decoder"]
    wanted = {CACHE_UPDATE: 2 * sizes["layers"], ATTENTION: sizes["layers"]}
    for kind, count in wanted.items():
        if built.layers.get(kind, 0) != count:
            raise GpuError(
                f"{name}: TensorRT built {built.layers.get(kind, 0)} of {count} {kind} layers; it is another version "
                "than this project knows: choose runtime: torch or onnx"
            )
    cache = (_TYPES.get(sizes["cache"]), (1, sizes["kv_heads"], manifest["s_max"], sizes["head_dim"]))
    for layer in range(sizes["layers"]):
        for kind in ("key", "value"):
            for binding in (f"{kind}_{layer}", f"new_{kind}_{layer}"):
                if built.bindings.get(binding) != cache:
                    raise GpuError(
                        f"{name}: {binding} is {built.bindings.get(binding)}, not {cache}; export the checkpoint again"
                    )


def _name_target(trt: Any, config: Any, capability: str) -> None:
    """Build for a GPU that is not here. Full TensorRT cannot; TensorRT-RTX knows a list of capabilities."""
    known = {
        f"{name[2:-1]}.{name[-1]}": kind
        for name, kind in getattr(getattr(trt, "ComputeCapability", None), "__members__", {}).items()
        if name.startswith("SM")
    }
    if capability not in known:
        names = ", ".join(known) or "none: it builds on the GPU that it is for"
        raise GpuError(f"compute capability {capability}: {trt.__name__} {trt.__version__} can build for {names}")
    config.num_compute_capabilities = 1
    if not config.set_compute_capability(known[capability], 0):
        raise GpuError(f"compute capability {capability}: TensorRT does not take it; build on that GPU")


def _finish_attention(trt: Any, network: Any) -> None:
    """Causal attention over the valid rows of the cache, aligned to their end, as the contract has it."""
    valid = next(
        (tensor for tensor in (network.get_input(i) for i in range(network.num_inputs)) if tensor.name == "valid"), None
    )
    lengths = None if valid is None else _output(network.add_cast(valid, trt.int32), "cast")
    if not hasattr(trt.LayerType, ATTENTION):
        raise GpuError(f"{trt.__name__} {trt.__version__}: knows no attention layer; install a newer one")
    for i in range(network.num_layers):
        layer = network.get_layer(i)
        if layer.type != trt.LayerType.ATTENTION_INPUT:
            continue
        layer.__class__ = trt.IAttentionInputLayer
        attention = layer.attention
        if not hasattr(attention, "key_value_lengths"):
            raise GpuError(f"{trt.__name__} {trt.__version__}: its attention takes no lengths; install a newer one")
        attention.decomposable = True
        if attention.causal_kind != trt.CausalMaskKind.NONE:
            if lengths is None:
                raise GpuError("the graph has causal attention and no input `valid`; export the checkpoint again")
            attention.causal_kind = trt.CausalMaskKind.LOWER_RIGHT
            attention.key_value_lengths = lengths


def _add_greedy(trt: Any, network: Any) -> None:
    """Outputs `greedy` [R, 1], each row's likeliest id, and `probability` [R, 1], its softmax over the vocabulary.

    With them a drafter's next id stays on the GPU, and the host knows how sure it was.
    """
    logits = next((t for t in (network.get_output(i) for i in range(network.num_outputs)) if t.name == "logits"), None)
    if logits is None:
        return
    best = network.add_topk(logits, trt.TopKOperation.MAX, 1, 1 << 1)
    below = network.add_elementwise(logits, _output(best, "top 1"), trt.ElementWiseOperation.SUB)
    weights = network.add_unary(_output(below, "difference"), trt.UnaryOperation.EXP)
    total = network.add_reduce(_output(weights, "exponential"), trt.ReduceOperation.SUM, 1 << 1, True)
    share = network.add_unary(_output(total, "sum"), trt.UnaryOperation.RECIP)
    for name, tensor in (("greedy", _output(best, "top 1", 1)), ("probability", _output(share, "reciprocal"))):
        tensor.name = name
        network.mark_output(tensor)


def _add_profile(builder: Any, network: Any, config: Any, profile: Profile, where: str) -> None:
    made = builder.create_optimization_profile()
    for i in range(network.num_inputs):
        tensor = network.get_input(i)
        shape = tuple(tensor.shape)
        if -1 not in shape:
            continue
        sizes = profile if tensor.name != "rows" else (1, 1, min(VERIFY_ROWS, profile[2]))
        if made.set_shape(tensor.name, *(tuple(n if d == -1 else d for d in shape) for n in sizes)) is False:
            raise GpuError(f"{where}: TensorRT refuses a profile of {profile} for {tensor.name}")
    if config.add_optimization_profile(made) < 0:
        raise GpuError(f"{where}: TensorRT refuses a profile of {profile}; its inputs are not all covered")


def _kinds(network: Any) -> dict[str, int]:
    kinds: dict[str, int] = {}
    for i in range(network.num_layers):
        kind = str(network.get_layer(i).type).rpartition(".")[2]
        kinds[kind] = kinds.get(kind, 0) + 1
    return kinds


def _bindings(network: Any) -> dict[str, tuple[str, tuple[int, ...]]]:
    tensors = [network.get_input(i) for i in range(network.num_inputs)]
    tensors += [network.get_output(i) for i in range(network.num_outputs)]
    return {tensor.name: (str(tensor.dtype).rpartition(".")[2], tuple(tensor.shape)) for tensor in tensors}


def _output(layer: Any, what: str, index: int = 0) -> Any:
    found = None if layer is None else layer.get_output(index)
    if found is None:
        raise GpuError(f"TensorRT adds no {what} to the network; install another version of it")
    return found


def _monitor(trt: Any, progress: Callable[[str, int, int], None]) -> Any:
    """TensorRT's progress monitor as a function of (phase, step, steps)."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.steps: dict[str, int] = {}

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self.steps[phase] = steps

        def step_complete(self, phase: str, step: int) -> bool:
            progress(phase, step + 1, self.steps.get(phase, 0))
            return True

        def phase_finish(self, phase: str) -> None:
            self.steps.pop(phase, None)

    return Monitor()
