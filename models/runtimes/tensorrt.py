"""TensorRT: one execution context and one CUDA stream a model, caches at fixed addresses, a CUDA graph a small shape.

Nothing here has run on a GPU yet (docs/gpu.md says what has been proved); `-m gpu` holds its tests. It loads nothing
that `engine_files` has not found to be this GPU's and this TensorRT's.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.errors import ModelError
from models.runtimes.contract import Floats, Ints
from models.runtimes.cuda import DeviceArray, PinnedArray, Stream
from models.runtimes.engine_files import EngineSet, read_engines
from models.runtimes.nvidia import GpuError, OutOfGpuMemory, find_gpu, tensorrt, tensorrt_version
from models.stored import StoredTensor

_MAX_GRAPHS = 64  # shapes whose captured pass is kept; the oldest goes first
_ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


class Engine:
    """One engine with its one context on a stream."""

    def __init__(self, file: Path, stream: Stream) -> None:
        trt = tensorrt()
        self._trt, self.stream = trt, stream
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        self._engine = self._runtime.deserialize_cuda_engine(file.read_bytes())
        if self._engine is None:
            raise GpuError(f"{file.name}: TensorRT cannot load it; build the engines again on this machine")
        self._context = self._engine.create_execution_context()
        if self._context is None:
            size = self._engine.device_memory_size_v2 / 1e6
            raise OutOfGpuMemory(
                f"{file.name}: no GPU memory for its {size:,.0f} MB of activations; export with a smaller --chunk, or "
                "close what else uses the GPU"
            )
        self._profile = -1

    def bind(self, addresses: Mapping[str, int]) -> None:
        """Fixed addresses of inputs and outputs. Raises GpuError."""
        for name, address in addresses.items():
            if not self._context.set_tensor_address(name, address):
                raise GpuError(f"engine: no tensor {name}; build the engines again")

    def enqueue(self, profile: int, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """One pass in the stream's order. Raises GpuError."""
        if profile != self._profile:
            if not self._context.set_optimization_profile_async(profile, self.stream.handle):
                raise GpuError(f"engine: profile {profile} cannot be taken; build the engines again")
            self._profile = profile
        for name, shape in shapes.items():
            if not self._context.set_input_shape(name, shape):
                raise GpuError(f"engine: {name} of shape {list(shape)} is outside of profile {profile}")
        if not self._context.execute_async_v3(self.stream.handle):
            raise GpuError("engine: TensorRT did not take the pass; see its log")


class TensorRtVision:
    """Pixels to visual tokens."""

    def __init__(self, folder: Path, found: EngineSet, manifest: Mapping[str, Any], stream: Stream) -> None:
        frames, size, width = manifest["frames"], manifest["image_size"], manifest["decoder"]["width"]
        self._frames, self._tokens, self._width = frames, manifest["visual_tokens"], width
        self._per_frame = self._tokens // frames if manifest["role"] == "target" else None
        self._stream = stream
        self._engine = Engine(folder / str(found.engines["vision"]["file"]), stream)
        self._pixels = PinnedArray((frames, 3, size, size), np.float32, "pixels")
        self._visual = PinnedArray((self._tokens, width), np.float32, "visual tokens")
        self._on_gpu = (
            DeviceArray(self._pixels.values.shape, 4, "pixels"),
            DeviceArray((self._tokens, width), 4, "visual"),
        )
        self._engine.bind({"pixels": self._on_gpu[0].address, "tokens": self._on_gpu[1].address})

    def encode(self, pixels: Floats, threads: int) -> Floats:
        """Pixels [N, 3, S, S], N at most a window's, to visual token embeddings [V, D]."""
        count = len(pixels)
        tokens = self._tokens if self._per_frame is None else count * self._per_frame
        self._pixels.values[:count] = pixels
        self._stream.copy(self._on_gpu[0].address, self._pixels.address, pixels.size * 4)
        self._engine.enqueue(0, {"pixels": pixels.shape})
        self._stream.copy(self._visual.address, self._on_gpu[1].address, tokens * self._width * 4)
        self._stream.wait()
        return self._visual.values[:tokens].copy()

    def warm_up(self, frames: int, image_size: int, threads: int) -> None:
        """One pass of this shape."""
        self.encode(np.zeros((frames, 3, image_size, image_size), np.float32), threads)

    def keep(self, threads: Collection[int]) -> None:
        """Nothing is held for a thread count."""


class TensorRtDecoder:
    """The decoder contract on two engines that share one set of caches."""

    def __init__(
        self, folder: Path, found: EngineSet, manifest: Mapping[str, Any], embedding: StoredTensor, stream: Stream
    ) -> None:
        sizes = manifest["decoder"]
        self.s_max, self.width, self.vocabulary = manifest["s_max"], sizes["width"], sizes["vocabulary"]
        self._found, self._stream = found, stream
        self._embedding, self._table = embedding, embedding.map()
        self._row_bytes = sizes["head_dim"] * _ITEM_BYTES[sizes["cache"]]
        self._kv_heads = sizes["kv_heads"]
        shape = (1, sizes["kv_heads"], self.s_max, sizes["head_dim"])
        names = [f"{kind}_{layer}" for layer in range(sizes["layers"]) for kind in ("key", "value")]
        self._caches = {name: DeviceArray(shape, _ITEM_BYTES[sizes["cache"]], "key/value cache") for name in names}
        most, rows = found.chunk, found.most_rows
        tree = found.profiles["decoder_tree"][0][2]
        self._host = {
            "embeddings": PinnedArray((most, self.width), np.float32, "embeddings"),
            "positions": PinnedArray((most,), np.int64, "positions"),
            "write": PinnedArray((1,), np.int64, "write"),
            "valid": PinnedArray((1,), np.int64, "valid"),
            "mask": PinnedArray((tree, self.s_max), np.bool_, "mask"),
            "rows": PinnedArray((rows,), np.int64, "rows"),
        }
        self._inputs = {
            name: DeviceArray(array.values.shape, array.values.itemsize, name) for name, array in self._host.items()
        }
        self._logits = (
            PinnedArray((rows, self.vocabulary), np.float32, "logits"),
            DeviceArray((rows, self.vocabulary), 4, "logits"),
        )
        self._greedy = (PinnedArray((self.s_max,), np.int32, "greedy ids"), DeviceArray((rows,), 4, "greedy ids"))
        self._engines = {
            name: self._open(folder / str(found.engines[name]["file"]), view)
            for name, view in (("decoder", "valid"), ("decoder_tree", "mask"))
        }
        self._embed = self._open_embedding(folder)
        # Row n holds n: copied to `positions`, `write` and `valid`, so that the host never writes while a draft runs.
        self._counters = DeviceArray((self.s_max + 1,), 8, "counters")
        counters = PinnedArray((self.s_max + 1,), np.int64, "counters")
        counters.values[:] = np.arange(self.s_max + 1)
        stream.copy(self._counters.address, counters.address, counters.values.nbytes)
        stream.wait()
        self._graphs: OrderedDict[tuple[str, int, int], Any] = OrderedDict()
        self._step: Any = None  # one drafted token, as a graph

    def embed(self, ids: Ints) -> Floats:
        """Token ids [T] to embeddings [T, D]."""
        return self._embedding.widen(self._table[ids])

    def forward(self, embeddings: Floats, length: int, rows: Ints, threads: int) -> Floats:
        """Causal pass; see the contract. More tokens than a chunk are fed chunk by chunk."""
        tokens, most = self._check(embeddings, length), self._found.chunk
        rows = np.asarray(rows)
        logits: Floats = np.empty((len(rows), self.vocabulary), np.float32)
        for begin in range(0, tokens, most):
            part = embeddings[begin : begin + most]
            inside = np.flatnonzero((rows >= begin) & (rows < begin + len(part)))
            # More rows than the engine gives are asked for by checks alone: the same pass again, for the next of them.
            for first in range(0, max(1, len(inside)), self._found.most_rows):
                group = inside[first : first + self._found.most_rows]
                logits[group] = self._pass("decoder", part, length + begin, rows[group] - begin)
        return logits

    def forward_tree(
        self, embeddings: Floats, positions: Ints, mask: NDArray[np.bool_], length: int, rows: Ints, threads: int
    ) -> Floats:
        """Masked pass; see the contract. Raises ValueError for a tree larger than the engine was built for."""
        tokens, most = self._check(embeddings, length), self._found.profiles["decoder_tree"][0][2]
        if tokens > most:
            raise ValueError(f"decoder: a tree of {tokens} nodes exceeds the engine's {most}; ask for fewer")
        seen = self._host["mask"].values[:tokens]
        seen[:, :length], seen[:, length : length + tokens], seen[:, length + tokens :] = True, mask, False
        return self._pass("decoder_tree", embeddings, length, np.asarray(rows), positions)

    def greedy(self, first: int, length: int, count: int) -> Iterator[int]:
        """The likeliest id after `first`, after that, …: `count` steps enqueued at once, ids as the GPU makes them.

        `first` becomes cache row `length`. Between two steps nothing waits for the host: the look-up of the embedding
        and the choice of the id happen on the GPU.
        """
        if not 0 < count <= self.s_max - length:
            raise ValueError(f"decoder: {count} rows after {length} do not fit a cache of {self.s_max}")
        stream, inputs, (host_ids, ids) = self._stream, self._inputs, self._greedy
        host_ids.values[0] = first
        stream.copy(ids.address, host_ids.address, 4)
        stream.copy(inputs["rows"].address, self._counters.address, 8)
        if self._step is None:
            self._enqueue_step()  # before a capture TensorRT wants one pass of the shape
            stream.wait()
            stream.copy(ids.address, host_ids.address, 4)
            self._step = stream.capture(self._enqueue_step)
        marks = []
        for k in range(count):
            at = self._counters.address + 8 * (length + k)
            for name, address in (("positions", at), ("write", at), ("valid", at + 8)):
                stream.copy(inputs[name].address, address, 8)
            stream.replay(self._step)
            stream.copy(host_ids.address + 4 * k, ids.address, 4)
            marks.append(stream.event())
        for k, mark in enumerate(marks):
            stream.wait_for(mark)
            yield int(host_ids.values[k])

    def compact(self, length: int, kept: Ints) -> None:
        """Move cache rows `length + kept` (ascending) to rows length, length + 1, …: one small copy a head and row."""
        for cache in self._caches.values():
            for to, row in enumerate(kept):
                if to != row:
                    for head in range(self._kv_heads):
                        base = cache.address + (head * self.s_max + length) * self._row_bytes
                        self._stream.copy(
                            base + to * self._row_bytes, base + int(row) * self._row_bytes, self._row_bytes
                        )

    def warm_up(self, tokens: int, rows: int, threads: int) -> None:
        """Run a pass over T rows twice: the second is captured. Overwrites the cache."""
        for _ in range(2):
            self.forward(np.zeros((tokens, self.width), np.float32), 0, np.arange(tokens - rows, tokens), threads)

    def keep(self, threads: Collection[int]) -> None:
        """Nothing is held for a thread count."""

    def check_alignment(self) -> None:
        """Four tokens at once must equal two and then two: whether causal attention ends where the valid rows do.

        Overwrites the cache. Raises GpuError.
        """
        embeddings = np.random.default_rng(0).standard_normal((4, self.width), np.float32)
        whole = self.forward(embeddings, 0, np.arange(4), 1)
        self.forward(embeddings[:2], 0, np.arange(0), 1)
        parts = self.forward(embeddings[2:], 2, np.arange(2), 1)
        if not np.allclose(whole[2:], parts, atol=3e-2 * float(np.abs(whole).max())):
            raise GpuError(
                f"{tensorrt_version()}: its causal attention is not aligned to the end of the cache; "
                "choose runtime: torch or onnx"
            )

    def _check(self, embeddings: Floats, length: int) -> int:
        if not (length >= 0 and 0 < len(embeddings) <= self.s_max - length):
            raise ValueError(
                f"decoder: {len(embeddings)} rows after {length} do not fit a cache of {self.s_max}; "
                "export with a larger s_max or ask for fewer tokens"
            )
        return len(embeddings)

    def _pass(self, name: str, embeddings: Floats, length: int, rows: Ints, positions: Ints | None = None) -> Floats:
        tokens, count = len(embeddings), max(1, len(rows))  # an engine gives at least one row
        host = self._host
        host["embeddings"].values[:tokens] = embeddings
        host["positions"].values[:tokens] = np.arange(length, length + tokens) if positions is None else positions
        host["write"].values[0], host["valid"].values[0] = length, length + tokens
        host["rows"].values[:count] = rows if len(rows) else 0
        key = (name, tokens, count)
        if tokens > self._found.profiles["decoder"][2][2]:
            self._enqueue(*key)  # a large pass hides its launches by itself
        elif self._graphs.get(key) is not None:
            self._graphs.move_to_end(key)
            self._stream.replay(self._graphs[key])
        else:
            self._enqueue(*key)
            self._stream.wait()
            if key in self._graphs:  # seen twice: worth a graph
                self._graphs[key] = self._stream.capture(lambda: self._enqueue(*key))
            else:
                self._graphs[key] = None
                if len(self._graphs) > _MAX_GRAPHS:
                    self._graphs.popitem(last=False)
        self._stream.wait()
        logits: Floats = self._logits[0].values[: len(rows)].copy()
        return logits

    def _enqueue(self, name: str, tokens: int, count: int) -> None:
        """Inputs to the GPU, the pass, logits back; every address is fixed, so that a graph can hold it."""
        view = "valid" if name == "decoder" else "mask"
        sizes = {
            "embeddings": tokens * self.width * 4, "positions": tokens * 8, "write": 8, "rows": count * 8,
            view: 8 if view == "valid" else tokens * self.s_max,
        }  # fmt: skip
        for tensor, size in sizes.items():
            self._stream.copy(self._inputs[tensor].address, self._host[tensor].address, size)
        shapes: dict[str, tuple[int, ...]] = {
            "embeddings": (tokens, self.width), "positions": (tokens,), "rows": (count,),
        }  # fmt: skip
        if view == "mask":
            shapes["mask"] = (tokens, self.s_max)
        self._engines[name].enqueue(self._profile(name, tokens), shapes)
        self._stream.copy(self._logits[0].address, self._logits[1].address, count * self.vocabulary * 4)

    def _enqueue_step(self) -> None:
        self._embed.enqueue(0, {})
        shapes = {"embeddings": (1, self.width), "positions": (1,), "rows": (1,)}
        self._engines["decoder"].enqueue(1, shapes)

    def _profile(self, name: str, tokens: int) -> int:
        if name == "decoder_tree":
            return 0
        return choose_profile(self._found.profiles["decoder"], tokens)

    def _open(self, file: Path, view: str) -> Engine:
        engine = Engine(file, self._stream)
        inputs = {name: self._inputs[name].address for name in ("embeddings", "positions", "write", "rows", view)}
        caches = {name: cache.address for name, cache in self._caches.items()}
        engine.bind(inputs | caches | {f"new_{name}": address for name, address in caches.items()})
        engine.bind({"logits": self._logits[1].address, "greedy": self._greedy[1].address})
        return engine

    def _open_embedding(self, folder: Path) -> Engine:
        engine = Engine(folder / str(self._found.engines["embedding"]["file"]), self._stream)
        engine.bind({"ids": self._greedy[1].address, "embeddings": self._inputs["embeddings"].address})
        return engine


def choose_profile(profiles: list[list[int]], tokens: int) -> int:
    """The narrowest profile that holds a pass of so many tokens. Raises ModelError."""
    fitting = [(most - least, i) for i, (least, _, most) in enumerate(profiles) if least <= tokens <= most]
    if not fitting:
        raise ModelError(f"engine: no profile for {tokens} tokens; build the engines again with a larger --chunk")
    return min(fitting)[1]


def load(folder: Path, manifest: Mapping[str, Any], embedding: StoredTensor) -> tuple[TensorRtVision, TensorRtDecoder]:
    """Both parts of a model folder on the GPU. Raises ModelError: no GPU, TensorRT, engines, or memory."""
    library = tensorrt_version()
    gpu = find_gpu()
    found = read_engines(folder, library, gpu.capability, gpu.name)
    stream = Stream()
    decoder = TensorRtDecoder(folder, found, manifest, embedding, stream)
    decoder.check_alignment()
    return TensorRtVision(folder, found, manifest, stream), decoder
