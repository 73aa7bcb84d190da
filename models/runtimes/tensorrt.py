"""TensorRT: one CUDA stream a model, caches at fixed addresses, a CUDA graph (and a context) a small shape.

Nothing here has run on a GPU yet (docs/gpu.md says what has been proved); `-m gpu` holds its tests. It loads nothing
that `engine_files` has not found to be this GPU's and this TensorRT's.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.errors import ModelError
from models.runtimes.alignment import aligned
from models.runtimes.contract import Floats, Ints, Likeliest, fitting
from models.runtimes.cuda import DeviceArray, Mark, PinnedArray, Stream
from models.runtimes.device_clock import DeviceClock, Interval
from models.runtimes.engine_files import EngineSet, read_engines
from models.runtimes.free_run import run_ahead
from models.runtimes.memory import cache_bytes, need_memory
from models.runtimes.nvidia import GpuError, find_gpu, tensorrt_version
from models.runtimes.sharing import Sharing
from models.runtimes.tensorrt_engine import Captured, Context, Engine, Lane
from models.runtimes.tensorrt_vision import TensorRtVision
from models.stored import StoredTensor

_MAX_GRAPHS = 48  # shapes whose captured pass is kept, each with a context; the oldest goes first
_GRAPH_ROWS = 32  # a larger pass hides its launches by itself
_ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True, slots=True)
class _Step:
    """The marks around a step of a free run."""

    clock: DeviceClock
    begin: Any
    end: Mark

    def wait(self) -> None:
        """Until the GPU has come to the end of the step. Raises GpuError."""
        self.end.wait()
        self.clock.note(self.begin, self.end)


class TensorRtDecoder:
    """The decoder contract on two engines that share one set of caches."""

    def __init__(
        self, engines: Mapping[str, Engine], found: EngineSet, manifest: Mapping[str, Any], embedding: StoredTensor
    ) -> None:
        sizes = manifest["decoder"]
        self.s_max, self.width, self.vocabulary = manifest["s_max"], sizes["width"], sizes["vocabulary"]
        self._found, self._lane, self._engines = found, engines["decoder"].lane, dict(engines)
        self._embedding, self._table = embedding, embedding.map()
        # All caches are one array [2 · layers, Hkv, S_max, Dh]: then `compact` moves a row of all in one copy.
        self._row_bytes = sizes["head_dim"] * _ITEM_BYTES[sizes["cache"]]
        self._parts = 2 * sizes["layers"] * sizes["kv_heads"]
        self._caches = DeviceArray((self._parts, self.s_max, self._row_bytes), 1, "key/value cache")
        most, rows = found.chunk, found.most_rows
        self._most_nodes = found.profiles["decoder_tree"][0][2]
        self._host = {
            "embeddings": PinnedArray((most, self.width), np.float32, "embeddings"),
            "positions": PinnedArray((most,), np.int64, "positions"),
            "write": PinnedArray((1,), np.int64, "write"),
            "valid": PinnedArray((1,), np.int64, "valid"),
            "mask": PinnedArray((self._most_nodes, self.s_max), np.bool_, "mask"),
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
        self._probability = (
            PinnedArray((self.s_max,), np.float32, "probabilities"),
            DeviceArray((rows,), 4, "probabilities"),
        )
        names = [f"{kind}_{layer}" for layer in range(sizes["layers"]) for kind in ("key", "value")]
        part = sizes["kv_heads"] * self.s_max * self._row_bytes
        caches = {name: self._caches.address + i * part for i, name in enumerate(names)}
        for name, view in (("decoder", "valid"), ("decoder_tree", "mask")):
            inputs = {key: self._inputs[key].address for key in ("embeddings", "positions", "write", "rows", view)}
            outputs = {f"new_{key}": address for key, address in caches.items()}
            outputs |= {"logits": self._logits[1].address, "greedy": self._greedy[1].address}
            outputs |= {"probability": self._probability[1].address}
            engines[name].bind(inputs | caches | outputs)
        engines["embedding"].bind({"ids": self._greedy[1].address, "embeddings": self._inputs["embeddings"].address})
        # Row n holds n: copied to `positions`, `write` and `valid`, so that the host never writes while a draft runs.
        self._counters = DeviceArray((self.s_max + 1,), 8, "counters")
        counters = PinnedArray((self.s_max + 1,), np.int64, "counters")
        counters.values[:] = np.arange(self.s_max + 1)
        self._lane.stream.copy(self._counters.address, counters.address, counters.values.nbytes)
        self._lane.stream.wait()
        self._graphs: OrderedDict[tuple[str, int, int], Captured | None] = OrderedDict()
        self._step: Captured | None = None  # one drafted token

    def embed(self, ids: Ints) -> Floats:
        """Token ids [T] to embeddings [T, D]."""
        return self._embedding.widen(self._table[ids])

    def forward(self, embeddings: Floats, length: int, rows: Ints, threads: int) -> Floats:
        """Causal pass; see the contract. More tokens than a chunk are fed chunk by chunk."""
        tokens, most = fitting(self, embeddings, length), self._found.chunk
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
        """Masked pass; see the contract. More nodes than the engine takes are fed part by part, as in `forward`."""
        tokens, most, given = fitting(self, embeddings, length), self._most_nodes, self._found.most_rows
        rows, seen = np.asarray(rows), self._host["mask"].values
        logits: Floats = np.empty((len(rows), self.vocabulary), np.float32)
        for begin in range(0, tokens, most):
            part = slice(begin, min(begin + most, tokens))
            count = part.stop - begin
            seen[:count, :length], seen[:count, length + tokens :] = True, False
            seen[:count, length : length + tokens] = mask[part]  # of nodes before it alone: they are in the cache
            inside = np.flatnonzero((rows >= begin) & (rows < part.stop))
            for first in range(0, max(1, len(inside)), given):
                group = inside[first : first + given]
                logits[group] = self._pass(
                    "decoder_tree", embeddings[part], length + begin, rows[group] - begin, np.asarray(positions)[part]
                )
        return logits

    def greedy(self, first: int, length: int, count: int) -> Generator[Likeliest]:
        """Tokens as the GPU makes them; see the contract. Between two steps nothing waits for the host."""
        if not 0 < count <= self.s_max - length:
            raise ValueError(f"decoder: {count} rows after {length} do not fit a cache of {self.s_max}")
        stream, clock = self._lane.stream, self._lane.clock
        begin = clock.begin()
        self._begin_run(first, length)
        if self._step is None:
            self._step = self._captured_step()  # it has run once, on the row that the first step writes again
            self._begin_run(first, length)

        def enqueue(k: int) -> _Step:
            start = clock.mark() if k else begin
            self.enqueue_step(length, k)
            return _Step(clock, start, stream.mark())

        def read(k: int) -> Likeliest:
            return Likeliest(int(self._greedy[0].values[k]), float(self._probability[0].values[k]))

        return run_ahead(enqueue, read, count)

    def enqueue_step(self, length: int, k: int) -> None:
        """Step k of a run that began after `length` rows, and what it makes back to the host, without waiting."""
        stream, step = self._lane.stream, self._step
        assert step is not None
        self._place(length + k)
        step.run(stream)
        for host, made in (self._greedy, self._probability):
            stream.copy(host.address + 4 * k, made.address, 4)

    def _begin_run(self, first: int, length: int) -> None:
        stream, (host_ids, ids) = self._lane.stream, self._greedy
        host_ids.values[0] = first
        stream.copy(ids.address, host_ids.address, 4)
        stream.copy(self._inputs["rows"].address, self._counters.address, 8)
        self._place(length)

    def _place(self, row: int) -> None:
        """The next pass over one token writes this cache row."""
        at = self._counters.address + 8 * row
        for name, address in (("positions", at), ("write", at), ("valid", at + 8)):
            self._lane.stream.copy(self._inputs[name].address, address, 8)

    def busy(self) -> list[Interval]:
        """When the stream was busy, on the host's clock."""
        return self._lane.clock.busy

    def compact(self, length: int, kept: Ints) -> None:
        """Move cache rows `length + kept` (ascending) to rows length, length + 1, …: one copy a row, of all caches."""
        pitch = self.s_max * self._row_bytes
        for to, row in enumerate(kept):
            if to != row:
                base = self._caches.address + length * self._row_bytes
                there, here = base + to * self._row_bytes, base + int(row) * self._row_bytes
                self._lane.stream.copy_rows(there, here, pitch, self._row_bytes, self._parts)

    def place(self, way: Sharing) -> None:
        """From now on in a stream made for this way of sharing the GPU. Raises GpuError, and then nothing changed."""
        stream = Stream(way)
        self._lane.stream.wait()
        self._graphs.clear()  # a graph belongs to the stream that it was captured on
        self._step = None
        self._lane.move(stream)

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
        if not aligned(self, 1, 3e-2):
            raise GpuError(
                f"{tensorrt_version()}: its causal attention is not aligned to the end of the cache; "
                "choose runtime: torch or onnx"
            )

    def _pass(self, name: str, embeddings: Floats, length: int, rows: Ints, positions: Ints | None = None) -> Floats:
        tokens, count = len(embeddings), max(1, len(rows))  # an engine gives at least one row
        host = self._host
        host["embeddings"].values[:tokens] = embeddings
        host["positions"].values[:tokens] = np.arange(length, length + tokens) if positions is None else positions
        host["write"].values[0], host["valid"].values[0] = length, length + tokens
        host["rows"].values[:count] = rows if len(rows) else 0
        key = (name, tokens, count)
        stream, captured = self._lane.stream, self._graphs.get(key)
        begin = self._lane.clock.begin()
        if tokens > _GRAPH_ROWS:
            self._enqueue(self._engines[name], *key)
        elif captured is not None:
            self._graphs.move_to_end(key)
            captured.run(stream)
        elif key not in self._graphs:
            self._enqueue(self._engines[name], *key)
            self._graphs[key] = None
            if len(self._graphs) > _MAX_GRAPHS:
                self._graphs.popitem(last=False)
        else:  # seen twice: worth a graph
            context = self._engines[name].context()
            self._enqueue(context, *key)
            self._graphs[key] = Captured((context,), stream, lambda: self._enqueue(context, *key))
        end = self._lane.clock.mark()
        stream.wait()
        self._lane.clock.note(begin, end)
        logits: Floats = self._logits[0].values[: len(rows)].copy()
        return logits

    def _enqueue(self, engine: Engine | Context, name: str, tokens: int, count: int) -> None:
        """Inputs to the GPU, the pass, logits back; every address is fixed, so that a graph can hold it."""
        view, stream = "valid" if name == "decoder" else "mask", self._lane.stream
        sizes = {
            "embeddings": tokens * self.width * 4, "positions": tokens * 8, "write": 8, "rows": count * 8,
            view: 8 if view == "valid" else tokens * self.s_max,
        }  # fmt: skip
        for tensor, size in sizes.items():
            stream.copy(self._inputs[tensor].address, self._host[tensor].address, size)
        shapes: dict[str, tuple[int, ...]] = {
            "embeddings": (tokens, self.width), "positions": (tokens,), "rows": (count,),
        }  # fmt: skip
        if view == "mask":
            shapes["mask"] = (tokens, self.s_max)
        profile = 0 if view == "mask" else choose_profile(self._found.profiles["decoder"], tokens)
        engine.enqueue(profile, shapes)
        stream.copy(self._logits[0].address, self._logits[1].address, count * self.vocabulary * 4)

    def _captured_step(self) -> Captured:
        """One greedy token: the embedding of the id on the GPU, the pass, the next id. Runs once for it."""
        embed, decode = self._engines["embedding"].context(), self._engines["decoder"].context()
        shapes = {"embeddings": (1, self.width), "positions": (1,), "rows": (1,)}
        profile = choose_profile(self._found.profiles["decoder"], 1)

        def work() -> None:
            embed.enqueue(0, {})
            decode.enqueue(profile, shapes)

        work()
        return Captured((embed, decode), self._lane.stream, work)


def choose_profile(profiles: list[list[int]], tokens: int) -> int:
    """The narrowest profile that holds a pass of so many tokens. Raises ModelError."""
    fitting = [(most - least, i) for i, (least, _, most) in enumerate(profiles) if least <= tokens <= most]
    if not fitting:
        raise ModelError(f"engine: no profile for {tokens} tokens; build the engines again with a larger --chunk")
    return min(fitting)[1]


def load(
    folder: Path, manifest: Mapping[str, Any], embedding: StoredTensor, number: int = 0
) -> tuple[TensorRtVision, TensorRtDecoder]:
    """Both parts of a model folder on the GPU of that number, this thread's current one.

    Raises ModelError: no GPU, TensorRT, engines, or memory.
    """
    library = tensorrt_version()
    gpu = find_gpu(number)
    found = read_engines(folder, library, gpu.capability, gpu.name)
    # The causal and the masked decoder each hold the weights: what the files hold is what the GPU must.
    engines_bytes = sum(int(entry["bytes"]) for entry in found.engines.values())
    need_memory(engines_bytes + cache_bytes(manifest), str(folder))
    engines = _open(folder, found)
    vision = TensorRtVision(engines.pop("vision"), manifest)
    decoder = TensorRtDecoder(engines, found, manifest, embedding)
    decoder.check_alignment()
    return vision, decoder


def open_decoder(
    folder: Path, found: EngineSet, manifest: Mapping[str, Any], embedding: StoredTensor
) -> TensorRtDecoder:
    """A decoder of engines that were just built here, without a vision side. Raises GpuError."""
    decoder = TensorRtDecoder(_open(folder, found), found, manifest, embedding)
    decoder.check_alignment()
    return decoder


def _open(folder: Path, found: EngineSet) -> dict[str, Engine]:
    lane = Lane()
    engines = {name: Engine(folder / str(entry["file"]), lane) for name, entry in found.engines.items()}
    lane.reserve(max(engine.scratch_bytes for engine in engines.values()), "activations")
    return engines
