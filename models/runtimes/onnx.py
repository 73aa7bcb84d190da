"""ONNX Runtime: vision and decoder sessions without torch, the caches bound in place at fixed addresses.

A session's thread pool cannot change, so there is one session for each number of threads, made when first asked for.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from models.checkpoint import place
from models.errors import ModelError
from models.runtimes.alignment import aligned
from models.runtimes.contract import Floats, Ints, fitting
from models.stored import StoredTensor

_HELD_BYTES = 8 << 20  # up to so many, an embedding table is held as float32 as well: looking up is one call then
_MAX_CALLS = 64  # shapes (T, R) whose bound buffers a session keeps; the oldest goes first


class Sessions:
    """The sessions of one graph file, one for each number of threads."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise ModelError(f"{place(path)}: no such file; export the checkpoint again")
        self._path = path
        self._sessions: dict[int, ort.InferenceSession] = {}

    def get(self, threads: int) -> ort.InferenceSession:
        """The session that computes with so many threads (at least 1). Raises ModelError for a damaged graph."""
        if threads not in self._sessions:
            self._sessions[threads] = self._load(threads)
        return self._sessions[threads]

    def keep(self, threads: Collection[int]) -> None:
        """Close the sessions of other thread counts: each holds its own copy of the weights."""
        self._sessions = {count: session for count, session in self._sessions.items() if count in threads}

    def _load(self, threads: int) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors; they are raised as well
        # Idle pool threads sleep: spinning ones took twice the CPU time, and the other model's core with it.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            return ort.InferenceSession(str(self._path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime has a class for each status, without a common base
            reason = " ".join(str(error).split())[:160]
            raise ModelError(f"{place(self._path)}: not usable ({reason}); export the checkpoint again") from None


class OnnxVision:
    """Pixels to visual tokens."""

    def __init__(self, path: Path) -> None:
        self._sessions = Sessions(path)

    def encode(self, pixels: Floats, threads: int) -> Floats:
        """Pixels [N, 3, S, S] to visual token embeddings [V, D]."""
        (tokens,) = self._sessions.get(threads).run(None, {"pixels": np.ascontiguousarray(pixels)})
        return tokens  # type: ignore[no-any-return]

    def warm_up(self, frames: int, image_size: int, threads: int) -> None:
        """Load the session for so many threads and let it allocate for this shape."""
        self.encode(np.zeros((frames, 3, image_size, image_size), np.float32), threads)

    def keep(self, threads: Collection[int]) -> None:
        """Close what was opened for other thread counts."""
        self._sessions.keep(threads)


@dataclass(frozen=True, slots=True)
class DecoderSizes:
    """What the caches and buffers of a decoder need to know."""

    layers: int
    kv_heads: int
    head_dim: int
    width: int
    vocabulary: int
    s_max: int
    cache: str = "float32"  # NumPy's name of the type that the graphs compute in


class OnnxDecoder:
    """The decoder contract over `decoder.onnx` (causal) and `decoder_tree.onnx` (masked), sharing one set of caches."""

    def __init__(self, folder: Path, sizes: DecoderSizes, embedding: StoredTensor) -> None:
        self.s_max, self.width, self.vocabulary = sizes.s_max, sizes.width, sizes.vocabulary
        self._causal, self._tree = Sessions(folder / "decoder.onnx"), Sessions(folder / "decoder_tree.onnx")
        self._embedding, self._table = embedding, embedding.map()
        self._wide = embedding.read() if embedding.length <= _HELD_BYTES else None
        self._places: Ints = np.arange(sizes.s_max)
        # One array, so that `compact` is one assignment; each layer's cache [1, Hkv, S_max, Dh] is a part of it.
        self._caches = np.zeros((2 * sizes.layers, 1, sizes.kv_heads, sizes.s_max, sizes.head_dim), sizes.cache)
        self._calls: OrderedDict[tuple[bool, int, int, int], _Call] = OrderedDict()

    def embed(self, ids: Ints) -> Floats:
        """Token ids [T] to embeddings [T, D]."""
        if self._wide is not None:
            return self._wide.take(ids, axis=0)
        return self._embedding.widen(self._table.take(ids, axis=0))

    def forward(self, embeddings: Floats, length: int, rows: Ints, threads: int) -> Floats:
        """Causal pass; see the contract."""
        tokens = fitting(self, embeddings, length)
        call = self._call(False, tokens, len(rows), threads)
        inputs = call.inputs
        inputs["embeddings"][:] = embeddings
        inputs["positions"][:] = self._places[length : length + tokens]
        inputs["write"][0], inputs["valid"][0] = length, length + tokens
        inputs["rows"][:] = rows
        return call.run()

    def forward_tree(
        self, embeddings: Floats, positions: Ints, mask: NDArray[np.bool_], length: int, rows: Ints, threads: int
    ) -> Floats:
        """Masked pass; see the contract."""
        tokens = fitting(self, embeddings, length)
        call = self._call(True, tokens, len(rows), threads)
        inputs = call.inputs
        inputs["embeddings"][:] = embeddings
        inputs["positions"][:] = positions
        inputs["write"][0] = length
        inputs["rows"][:] = rows
        seen = inputs["mask"]  # [T, S_max]
        seen[:, :length], seen[:, length : length + tokens], seen[:, length + tokens :] = True, mask, False
        return call.run()

    def compact(self, length: int, kept: Ints) -> None:
        """Move cache rows `length + kept` (ascending) to rows length, length + 1, …"""
        self._caches[..., length : length + len(kept), :] = self._caches[..., length + kept, :]

    def warm_up(self, tokens: int, rows: int, threads: int) -> None:
        """Load the session for so many threads and bind the buffers of a pass over T rows. Overwrites the cache."""
        self.forward(np.zeros((tokens, self.width), np.float32), 0, np.arange(tokens - rows, tokens), threads)

    def keep(self, threads: Collection[int]) -> None:
        """Close what was opened for other thread counts."""
        for call in [call for call in self._calls if call[-1] not in threads]:
            del self._calls[call]
        self._causal.keep(threads)
        self._tree.keep(threads)

    def check_alignment(self, threads: int = 1) -> None:
        """Four tokens at once must equal two and then two. Overwrites the cache. Raises ModelError.

        Runtimes before mid-2026 aligned the causal mask of a cached pass to the top left: they ran, and were wrong.
        """
        if not aligned(self, threads, 1e-3):
            raise ModelError(
                f"onnxruntime {ort.__version__}: its causal attention is not aligned to the end of the cache; "
                "install onnxruntime 1.32 or newer"
            )

    def _call(self, tree: bool, tokens: int, rows: int, threads: int) -> _Call:
        key = (tree, tokens, rows, threads)
        call = self._calls.get(key)
        if call is None:
            session = (self._tree if tree else self._causal).get(threads)
            view = ("mask", (tokens, self.s_max), np.bool_) if tree else ("valid", (1,), np.int64)
            call = self._calls[key] = _Call(session, self._caches, (rows, self.vocabulary), tokens, self.width, view)
            if len(self._calls) > _MAX_CALLS:
                self._calls.popitem(last=False)
        else:
            self._calls.move_to_end(key)
        return call


class _Call:
    """One shape of a pass: its inputs and its logits in memory bound once, and the caches as input and output."""

    def __init__(
        self,
        session: ort.InferenceSession,
        caches: NDArray[Any],
        logits: tuple[int, int],
        tokens: int,
        width: int,
        view: tuple[str, tuple[int, ...], type],
    ) -> None:
        name, shape, kind = view
        self.inputs: dict[str, NDArray[Any]] = {
            "embeddings": np.empty((tokens, width), np.float32),
            "positions": np.empty(tokens, np.int64),
            "write": np.empty(1, np.int64),
            name: np.empty(shape, kind),
            "rows": np.empty(logits[0], np.int64),
        }
        self._logits = np.empty(logits, np.float32)
        self._session, self._binding = session, session.io_binding()
        for name, array in self.inputs.items():
            self._binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for i, cache in enumerate(caches):
            name = f"{('key', 'value')[i % 2]}_{i // 2}"
            self._binding.bind_input(name, "cpu", 0, cache.dtype, cache.shape, cache.ctypes.data)
            self._binding.bind_output(f"new_{name}", "cpu", 0, cache.dtype, cache.shape, cache.ctypes.data)
        self._binding.bind_output("logits", "cpu", 0, np.float32, logits, self._logits.ctypes.data)

    def run(self) -> Floats:
        """The pass; a copy of the logits, since the next pass of this shape writes to the same memory."""
        self._session.run_with_iobinding(self._binding)
        return self._logits.copy()
