"""ONNX Runtime on a GPU, as far as a CPU can tell: what is asked of it, what is refused, and the bound passes.

The passes run on the CPU's provider with buffers in the host's memory; nothing plays a GPU.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from models.bundle import load_first, load_model
from models.errors import ModelError
from models.runtimes.device_clock import DeviceClock
from models.runtimes.nvidia import GpuError, OutOfGpuMemory
from models.runtimes.onnx import DecoderSizes
from models.runtimes.onnx_gpu import (
    OnnxGpuDecoder,
    OnnxGpuVision,
    _refused,
    graph_shapes,
    need_provider,
    open_session,
    provider_options,
)
from models.stored import stored_tensors
from tests.models.tiny import S_MAX, make_model

CPU = [("CPUExecutionProvider", dict[str, str]())]
without_cuda = pytest.mark.skipif(
    "CUDAExecutionProvider" in ort.get_available_providers(), reason="this onnxruntime has the CUDA provider"
)


class HostMemory:
    """The same two calls on the memory of the host."""

    name, number = "cpu", 0

    def __init__(self) -> None:
        self.clock = DeviceClock(None)

    def wait(self) -> None:
        """Passes on a CPU are over when they return."""

    def copy_rows(self, to: int, source: int, pitch: int, size: int, count: int) -> None:
        for i in range(count):
            ctypes.memmove(to + i * pitch, source + i * pitch, size)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("onnx-gpu") / "target", "target", seed=5)


def bound_decoder(folder: Path) -> OnnxGpuDecoder:
    manifest = load_model(folder, "target").manifest
    embedding = stored_tensors(folder / manifest["embedding"]["file"])[manifest["embedding"]["tensor"]]
    sizes = DecoderSizes(s_max=manifest["s_max"], **manifest["decoder"])
    causal, tree = (open_session(folder / f"{name}.onnx", CPU) for name in ("decoder", "decoder_tree"))
    return OnnxGpuDecoder(causal, tree, sizes, embedding, HostMemory())


def test_bound_passes_equal_those_of_the_cpu_runtime(folder: Path) -> None:
    """Prefill in two parts, a rejected draft, decode; a tree, one path of it kept, and what follows."""
    reference, decoder = load_model(folder, "target"), bound_decoder(folder)
    decoder.check_alignment("onnx-cuda")
    x = decoder.embed(np.random.default_rng(2).integers(0, 128, 60))
    mask, depth, kept = np.array([[1, 0, 0], [1, 1, 0], [1, 0, 1]], np.bool_), np.array([0, 1, 1]), np.array([0, 2])
    results = []
    for each in (reference.decoder, decoder):
        assert each.forward(x[:30], 0, np.arange(0), 1).shape == (0, 128)
        each.forward(x[50:58], 30, np.arange(8), 1)  # a draft that is rolled back
        logits = [each.forward(x[30:38], 30, np.arange(8), 1), each.forward(x[38:39], 38, np.arange(1), 1)]
        logits.append(each.forward_tree(x[39:42], 39 + depth, mask, 39, np.arange(3), 1))
        each.compact(39, kept)
        results.append([*logits, each.forward(x[50:51], 41, np.arange(1), 1)])
    for expected, found in zip(*results, strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match=f"2 rows after {S_MAX - 1} do not fit a cache of {S_MAX}"):
        decoder.forward(x[:2], S_MAX - 1, np.arange(1), 1)
    pixels = np.random.default_rng(1).standard_normal((8, 3, 28, 28), np.float32)
    vision = OnnxGpuVision(open_session(folder / "vision.onnx", CPU), DeviceClock(None))
    np.testing.assert_allclose(vision.encode(pixels, 1), reference.vision.encode(pixels, 1), rtol=0, atol=1e-5)


def test_what_each_runtime_asks_of_onnx_runtime(folder: Path) -> None:
    shapes = graph_shapes("decoder", load_model(folder, "target").manifest)
    cuda = provider_options("onnx-cuda", 4711, folder, shapes)
    assert [name for name, _ in cuda] == ["CUDAExecutionProvider", "CPUExecutionProvider"]
    assert cuda[0][1]["user_compute_stream"] == "4711"
    assert cuda[0][1]["arena_extend_strategy"] == "kSameAsRequested"
    tensorrt = provider_options("onnx-tensorrt", 4711, folder, shapes)
    assert [name for name, _ in tensorrt] == ["TensorrtExecutionProvider", *(name for name, _ in cuda)]
    options = tensorrt[0][1]
    assert options["user_compute_stream"] == tensorrt[1][1]["user_compute_stream"] == "4711"  # one order of passes
    assert options["trt_profile_min_shapes"] == "embeddings:1x32,positions:1,rows:1"
    assert options["trt_profile_max_shapes"] == "embeddings:160x32,positions:160,rows:64"
    assert options["trt_engine_cache_enable"] == "1"
    assert "mask:160x160" in provider_options(
        "onnx-tensorrt", 1, folder, graph_shapes("decoder_tree", load_model(folder, "target").manifest)
    )[0][1]["trt_profile_max_shapes"].split(",")


@without_cuda
@pytest.mark.parametrize("runtime", ["onnx-cuda", "onnx-tensorrt"])
def test_a_provider_that_is_not_there_is_one_line_and_the_next_runtime_goes_on(folder: Path, runtime: str) -> None:
    with pytest.raises(GpuError, match=rf"runtime {runtime}: onnxruntime .* has no .*Provider; install") as caught:
        need_provider(runtime)
    assert "\n" not in str(caught.value)
    told: list[tuple[str, str, str]] = []
    model = load_first(folder, "target", [runtime, "onnx"], lambda *line: told.append(line))  # type: ignore[list-item]
    assert (model.runtime, [line[:2] for line in told]) == ("onnx", [(runtime, "onnx")])


@without_cuda
@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_that_does_not_start_is_not_replaced_in_silence(folder: Path) -> None:
    """ONNX Runtime itself would go on with the CPU."""
    with pytest.raises(ModelError, match=r"vision.onnx: (onnxruntime .* could not start|not usable)"):
        open_session(folder / "vision.onnx", [("CUDAExecutionProvider", {}), *CPU])
    with pytest.raises(ModelError, match=r"absent.onnx: no such file"):
        open_session(folder / "absent.onnx", CPU)


def test_a_full_gpu_is_told_apart() -> None:
    full = RuntimeError(
        "BFCArena::AllocateRawInternal Available memory of 12 is smaller than requested bytes: failed to allocate"
    )
    assert isinstance(_refused("decoder", full, "x"), OutOfGpuMemory)
    assert not isinstance(_refused("decoder", RuntimeError("bad node"), "x"), OutOfGpuMemory)
