"""ONNX Runtime on a GPU: the CUDA or the TensorRT execution provider, in a stream of ours, caches in the GPU's memory.

Inputs, caches and logits of a pass are bound once a shape; in a pass only the new rows go to the GPU and the logits
come back. Nothing here has run on a GPU yet: the suite runs the same code on the CPU's provider, in the host's memory.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from models.checkpoint import place
from models.errors import ModelError
from models.runtimes.alignment import aligned
from models.runtimes.contract import Floats, Ints, fitting
from models.runtimes.device_clock import DeviceClock, Interval
from models.runtimes.memory import cache_bytes, need_memory, weight_bytes
from models.runtimes.nvidia import GpuError, OutOfGpuMemory
from models.runtimes.onnx import DecoderSizes
from models.stored import StoredTensor

PROVIDERS = {"onnx-cuda": "CUDAExecutionProvider", "onnx-tensorrt": "TensorrtExecutionProvider"}
Provider = tuple[str, dict[str, str]]
_MAX_CALLS = 48
_ROWS = 64  # of a verify pass, and of logits, that TensorRT's profile must hold


class Device(Protocol):
    """Where the buffers are, and the stream that the passes run in."""

    name: str  # as ONNX Runtime calls it: "cuda", "cpu"
    number: int  # of several
    clock: DeviceClock

    def wait(self) -> None:
        """Until every pass is done."""

    def copy_rows(self, to: int, source: int, pitch: int, size: int, count: int) -> None:
        """`size` bytes at each of `count` places that are `pitch` bytes apart."""


class CudaDevice:
    """A GPU, this thread's current one, with a stream of our own."""

    name = "cuda"

    def __init__(self, number: int = 0) -> None:
        from models.runtimes.cuda import Stream, StreamEvents

        self.number = number
        self.stream = Stream()
        self.clock = DeviceClock(StreamEvents(self.stream))
        self.wait, self.copy_rows = self.stream.wait, self.stream.copy_rows


def need_provider(runtime: str) -> str:
    """The execution provider of a runtime, `onnx-cuda` or `onnx-tensorrt`. Raises GpuError where it is not there."""
    wanted = PROVIDERS[runtime]
    if wanted not in ort.get_available_providers():
        raise GpuError(
            f"runtime {runtime}: onnxruntime {ort.__version__} has no {wanted}; install onnxruntime-gpu in its place "
            "(docs/develop.md), or choose runtime: onnx"
        )
    return wanted


def provider_options(
    runtime: str, stream: int, cache: Path, shapes: Mapping[str, Sequence[tuple[int, ...]]], number: int = 0
) -> list[Provider]:
    """The providers of a session, by preference; what the first does not take goes to the next.

    stream: the address of ours, on GPU `number`. cache: folder for TensorRT's engines. shapes: of each input whose
    shape varies the least, usual and most, of which TensorRT makes its profile.
    """
    ours = {"device_id": str(number), "user_compute_stream": str(stream)}
    # Memory as it is asked for: two models share the GPU, and an arena that doubles takes the other one's part.
    cuda = (PROVIDERS["onnx-cuda"], ours | {"arena_extend_strategy": "kSameAsRequested", "use_tf32": "0"})
    cpu: Provider = ("CPUExecutionProvider", {})
    if runtime == "onnx-cuda":
        return [cuda, cpu]

    def profile(which: int) -> str:
        return ",".join(f"{name}:{'x'.join(map(str, sizes[which]))}" for name, sizes in shapes.items())

    options = {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(cache),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(cache),
        "trt_profile_min_shapes": profile(0),
        "trt_profile_opt_shapes": profile(1),
        "trt_profile_max_shapes": profile(2),
    }
    return [(PROVIDERS["onnx-tensorrt"], ours | options), cuda, cpu]


def open_session(path: Path, providers: Sequence[Provider]) -> ort.InferenceSession:
    """A session that really runs on the first provider. Raises ModelError.

    ONNX Runtime goes on with the CPU, and a line in its log, where a GPU's libraries cannot be loaded.
    """
    if not path.is_file():
        raise ModelError(f"{place(path)}: no such file; export the checkpoint again")
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what is fatal; errors are raised as well
    try:
        session = ort.InferenceSession(str(path), options, providers=list(providers))
    except Exception as error:  # ONNX Runtime has a class for each status, without a common base
        raise _refused(f"{place(path)}: not usable", error, "export the checkpoint again") from None
    if session.get_providers()[0] != providers[0][0]:
        raise GpuError(
            f"{place(path)}: onnxruntime {ort.__version__} could not start {providers[0][0]} and took "
            f"{session.get_providers()[0]}; look at `event-captioner doctor`, or choose runtime: onnx"
        )
    return session


def _refused(what: str, error: Exception, remedy: str) -> ModelError:
    reason = " ".join(str(error).split())[:160]
    if "memory" in reason.lower() and "alloc" in reason.lower():
        return OutOfGpuMemory(
            f"{what}: the GPU's memory is full ({reason}); `event-captioner models plan` says what fits"
        )
    return ModelError(f"{what} ({reason}); {remedy}")


class OnnxGpuVision:
    """Pixels to visual tokens."""

    def __init__(self, session: ort.InferenceSession, clock: DeviceClock) -> None:
        self._session, self._clock = session, clock

    def encode(self, pixels: Floats, threads: int) -> Floats:
        """Pixels [N, 3, S, S] to visual token embeddings [V, D]."""
        begin = self._clock.begin()
        try:
            (tokens,) = self._session.run(None, {"pixels": np.ascontiguousarray(pixels)})
        except Exception as error:
            raise _refused("vision", error, "see the log of the GPU's driver") from None
        self._clock.note(begin, self._clock.reached())
        return tokens  # type: ignore[no-any-return]

    def warm_up(self, frames: int, image_size: int, threads: int) -> None:
        """One pass of this shape."""
        self.encode(np.zeros((frames, 3, image_size, image_size), np.float32), threads)

    def keep(self, threads: Collection[int]) -> None:
        """Nothing is held for a thread count."""


class OnnxGpuDecoder:
    """The decoder contract on two sessions that share one set of caches in a device's memory."""

    def __init__(
        self,
        causal: ort.InferenceSession,
        tree: ort.InferenceSession,
        sizes: DecoderSizes,
        embedding: StoredTensor,
        device: Device,
    ) -> None:
        self.s_max, self.width, self.vocabulary = sizes.s_max, sizes.width, sizes.vocabulary
        self._causal, self._tree, self._device = causal, tree, device
        self._embedding, self._table = embedding, embedding.map()
        shape, kind = (1, sizes.kv_heads, sizes.s_max, sizes.head_dim), np.dtype(sizes.cache)
        self._row_bytes, self._heads = sizes.head_dim * kind.itemsize, sizes.kv_heads
        names = [f"{which}_{layer}" for layer in range(sizes.layers) for which in ("key", "value")]
        # Zeros, not what was there: what attention leaves out is multiplied by zero, and 0 · NaN is NaN.
        self._caches = {name: self._value(np.zeros(shape, kind)) for name in names}
        self._calls: OrderedDict[tuple[bool, int, int], _Call] = OrderedDict()

    def embed(self, ids: Ints) -> Floats:
        """Token ids [T] to embeddings [T, D]."""
        return self._embedding.widen(self._table[ids])

    def forward(self, embeddings: Floats, length: int, rows: Ints, threads: int) -> Floats:
        """Causal pass; see the contract."""
        tokens = fitting(self, embeddings, length)
        inputs: dict[str, NDArray[Any]] = {"valid": np.array([length + tokens])}
        return self._pass(False, embeddings, np.arange(length, length + tokens), length, rows, inputs)

    def forward_tree(
        self, embeddings: Floats, positions: Ints, mask: NDArray[np.bool_], length: int, rows: Ints, threads: int
    ) -> Floats:
        """Masked pass; see the contract."""
        tokens = fitting(self, embeddings, length)
        seen = np.zeros((tokens, self.s_max), np.bool_)
        seen[:, :length], seen[:, length : length + tokens] = True, mask
        return self._pass(True, embeddings, positions, length, rows, {"mask": seen})

    def compact(self, length: int, kept: Ints) -> None:
        """Move cache rows `length + kept` (ascending) to rows length, length + 1, …"""
        pitch = self.s_max * self._row_bytes
        for to, row in enumerate(kept):
            if to != row:
                for cache in self._caches.values():
                    base = cache.data_ptr() + length * self._row_bytes
                    there, here = base + to * self._row_bytes, base + int(row) * self._row_bytes
                    self._device.copy_rows(there, here, pitch, self._row_bytes, self._heads)
        self._device.wait()

    def warm_up(self, tokens: int, rows: int, threads: int) -> None:
        """Bind the buffers of a pass over T rows and run it. Overwrites the cache."""
        self.forward(np.zeros((tokens, self.width), np.float32), 0, np.arange(tokens - rows, tokens), threads)

    def keep(self, threads: Collection[int]) -> None:
        """Nothing is held for a thread count."""

    def busy(self) -> list[Interval]:
        """When the stream was busy, on the host's clock."""
        return self._device.clock.busy

    def check_alignment(self, runtime: str) -> None:
        """Whether its causal attention is ours. Overwrites the cache. Raises GpuError."""
        if not aligned(self, 1, 3e-2):
            raise GpuError(
                f"runtime {runtime}: onnxruntime {ort.__version__}: its causal attention is not aligned to the end of "
                "the cache; install a newer onnxruntime-gpu, or choose runtime: onnx"
            )

    def _value(self, array: NDArray[Any]) -> ort.OrtValue:
        try:
            return ort.OrtValue.ortvalue_from_numpy(
                array.copy(), self._device.name, self._device.number
            )  # host memory is shared
        except Exception as error:
            raise _refused("decoder: buffers", error, "see the log of the GPU's driver") from None

    def _pass(
        self, tree: bool, embeddings: Floats, positions: Ints, length: int, rows: Ints, view: dict[str, NDArray[Any]]
    ) -> Floats:
        inputs: dict[str, NDArray[Any]] = {
            "embeddings": np.ascontiguousarray(embeddings, np.float32),
            "positions": np.asarray(positions, np.int64),
            "write": np.array([length]),
            "rows": np.asarray(rows, np.int64) if len(rows) else np.zeros(1, np.int64),  # a device has no empty buffer
            **view,
        }
        key = (tree, len(embeddings), len(inputs["rows"]))
        call = self._calls.pop(key, None)
        if call is None:
            held = {name: self._value(array) for name, array in inputs.items()}
            logits = self._value(np.zeros((key[2], self.vocabulary), np.float32))
            call = _Call(self._tree if tree else self._causal, held, self._caches, logits, self._device)
        self._calls[key] = call
        if len(self._calls) > _MAX_CALLS:
            self._calls.popitem(last=False)
        return call.run(inputs)[: len(rows)]


class _Call:
    """One shape of a pass, all of it bound: inputs and logits of its own, the caches as input and as output."""

    def __init__(
        self,
        session: ort.InferenceSession,
        inputs: dict[str, ort.OrtValue],
        caches: Mapping[str, ort.OrtValue],
        logits: ort.OrtValue,
        device: Device,
    ) -> None:
        self._session, self._inputs, self._logits, self._device = session, inputs, logits, device
        self._binding = session.io_binding()
        for name, value in {**inputs, **caches}.items():
            self._binding.bind_ortvalue_input(name, value)
        for name, value in caches.items():
            self._binding.bind_ortvalue_output(f"new_{name}", value)
        self._binding.bind_ortvalue_output("logits", logits)

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Floats:
        """The pass over these inputs; a copy of the logits. Raises ModelError, OutOfGpuMemory among them."""
        try:
            for name, array in inputs.items():
                self._inputs[name].update_inplace(array)
            begin = self._device.clock.begin()
            self._session.run_with_iobinding(self._binding)
            end = self._device.clock.mark()
            self._device.wait()
            self._device.clock.note(begin, end)
            logits: Floats = self._logits.numpy().copy()
        except Exception as error:
            raise _refused("decoder", error, "see the log of the GPU's driver") from None
        return logits


def load(
    folder: Path, manifest: Mapping[str, Any], embedding: StoredTensor, runtime: str, number: int = 0
) -> tuple[OnnxGpuVision, OnnxGpuDecoder]:
    """Both parts of a model folder on the GPU of that number. Raises ModelError: no provider, no GPU, memory."""
    need_provider(runtime)
    device = CudaDevice(number)
    sizes = DecoderSizes(s_max=manifest["s_max"], **manifest["decoder"])
    if sizes.cache not in ("float32", "float16"):
        raise ModelError(
            f"{folder}: was exported in {sizes.cache}; export with --precision fp16 for runtime: {runtime}"
        )
    # Two decoder sessions, each with its weights.
    need_memory(2 * weight_bytes(manifest) + cache_bytes(manifest), str(folder))
    cache = folder / "onnxruntime-tensorrt"

    def session(name: str) -> ort.InferenceSession:
        shapes = graph_shapes(name, manifest)
        return open_session(
            folder / f"{name}.onnx", provider_options(runtime, int(device.stream.handle), cache, shapes, number)
        )

    decoder = OnnxGpuDecoder(session("decoder"), session("decoder_tree"), sizes, embedding, device)
    decoder.check_alignment(runtime)
    return OnnxGpuVision(session("vision"), device.clock), decoder


def graph_shapes(name: str, manifest: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], ...]]:
    """The least, usual and most of each input of a graph whose shape varies."""
    if name == "vision":
        size, frames = manifest["image_size"], manifest["frames"]
        return {"pixels": tuple((count, 3, size, size) for count in (1, frames, frames))}
    rows, width = manifest["s_max"], manifest["decoder"]["width"]
    tokens, asked = (1, min(28, rows), rows), (1, 1, min(_ROWS, rows))
    shapes = {"embeddings": tuple((n, width) for n in tokens), "positions": tuple((n,) for n in tokens)}
    if name == "decoder_tree":
        shapes["mask"] = tuple((n, rows) for n in tokens)
    return shapes | {"rows": tuple((n,) for n in asked)}
