"""The contract on PyTorch for a GPU: static caches, no call that waits for the device, a CUDA graph a small shape.

The pass is the reference's (`models.llama`) with the cache written by index and the mask made of positions, so that
nothing depends on a number the host must know: then a graph can hold it. A large causal pass, which no graph holds,
attends to the valid rows alone by the fused causal kernel (flash attention). On a CPU all of it runs as it is, which is
how the tests compare it with the reference.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.llama import LlamaDecoder
from models.runtimes.contract import Floats, Ints, fitting
from models.runtimes.nvidia import GpuError, OutOfGpuMemory
from models.runtimes.sharing import STREAMS, Sharing

GRAPH_ROWS = 64  # a pass over more tokens hides its launches by itself
_MAX_SHAPES = 64


@dataclass
class _Pass:
    """One shape of a pass: its inputs and logits at fixed addresses, and its graph once it is captured."""

    embeddings: Tensor  # [T, D]
    positions: Tensor  # [T]
    at: Tensor  # [T] cache rows
    mask: Tensor  # [T, S_max]
    rows: Tensor  # [R]
    logits: Tensor  # [R, V]
    causal_after: int | None = 0  # valid rows before a causal pass; None: what is seen stands in the mask alone
    graph: Any = None
    used: int = 0


class StaticTorchDecoder:
    """A LlamaDecoder, on whatever device its weights are, with caches and a stream of its own."""

    def __init__(self, decoder: LlamaDecoder, s_max: int, way: Sharing = STREAMS) -> None:
        self.s_max, self.width, self.vocabulary = s_max, decoder.config.hidden_size, decoder.config.vocab_size
        self._decoder = decoder
        self.device, self.dtype = decoder.lm_head.weight.device, decoder.lm_head.weight.dtype
        with torch.inference_mode():
            self._caches = decoder.empty_caches(s_max)
        self._columns = torch.arange(s_max, device=self.device)
        self._passes: OrderedDict[tuple[int, int], _Pass] = OrderedDict()
        self.stream: Any = None
        self._pool: Any = None  # of memory inside of graphs: they run one after the other
        self._part: Any = None  # the green context of the stream
        if self.device.type == "cuda":
            self.place(way)

    def embed(self, ids: Ints) -> Floats:
        """Token ids [T] to embeddings [T, D]."""
        with torch.inference_mode():
            found = self._decoder.embed(torch.as_tensor(np.asarray(ids), device=self.device))
        embeddings: Floats = found.float().cpu().numpy()
        return embeddings

    def forward(self, embeddings: Floats, length: int, rows: Ints, threads: int) -> Floats:
        """Causal pass; see the contract."""
        positions = np.arange(length, length + fitting(self, embeddings, length))
        return self._fill(embeddings, positions, length, rows, None)

    def forward_tree(
        self, embeddings: Floats, positions: Ints, mask: NDArray[np.bool_], length: int, rows: Ints, threads: int
    ) -> Floats:
        """Masked pass; see the contract."""
        fitting(self, embeddings, length)
        return self._fill(embeddings, positions, length, rows, mask)

    def compact(self, length: int, kept: Ints) -> None:
        """Move cache rows `length + kept` (ascending) to rows length, length + 1, …"""
        source = torch.as_tensor(length + np.asarray(kept), device=self.device)
        with torch.inference_mode(), self._on_stream():
            for cache in self._caches:
                cache[:, :, length : length + len(kept)] = cache[:, :, source]
        self.wait()

    def warm_up(self, tokens: int, rows: int, threads: int) -> None:
        """Run a pass over T rows until it is captured. Overwrites the cache."""
        for _ in range(2):
            self.forward(np.zeros((tokens, self.width), np.float32), 0, np.arange(tokens - rows, tokens), threads)

    def keep(self, threads: Collection[int]) -> None:
        """Nothing is held for a thread count."""

    def place(self, way: Sharing) -> None:
        """From now on in a stream made for this way of sharing the GPU. Raises GpuError, and then nothing changed."""
        if self.device.type != "cuda":
            return
        part, stream = _stream(self.device, way)
        self.wait()
        for made in self._passes.values():
            made.graph, made.used = None, 0  # a graph belongs to the stream that it was captured on
        # Weights and caches were written in the default stream, for which no other one waits.
        stream.wait_stream(torch.cuda.default_stream(self.device))
        self.stream, self._part, self._pool = stream, part, torch.cuda.graph_pool_handle()

    def enqueue(self, tokens: int, rows: int, length: int | None = None) -> None:
        """A pass over what its inputs hold, without waiting for it: a measurement's, or a drafter's that runs on.

        length: valid rows before it, where the inputs were not filled by `forward`.
        """
        with torch.inference_mode(), self._on_stream(), memory_told("decoder"):
            made = self._pass(tokens, rows)
            if length is not None:
                made.causal_after = length
            made.used += 1
            if made.graph is not None:
                made.graph.replay()
                return
            self._step(made)
            if self.stream is not None and tokens <= GRAPH_ROWS and made.used >= 2:
                self.stream.synchronize()
                graph = torch.cuda.CUDAGraph()
                # Captured on the stream that replays it; the other model's thread may allocate and wait meanwhile.
                with torch.cuda.graph(graph, self._pool, self.stream, capture_error_mode="thread_local"):
                    self._step(made)
                made.graph = graph
                graph.replay()

    def wait(self) -> None:
        """Until everything enqueued is done."""
        if self.stream is not None:
            self.stream.synchronize()

    def _fill(
        self, embeddings: Floats, positions: Ints, length: int, rows: Ints, mask: NDArray[np.bool_] | None
    ) -> Floats:
        """Write a pass's inputs, run it, and copy its logits out."""
        tokens = len(embeddings)
        with torch.inference_mode(), self._on_stream(), memory_told("decoder"):
            made = self._pass(tokens, len(rows))
            made.embeddings.copy_(torch.from_numpy(np.ascontiguousarray(embeddings)))
            made.positions.copy_(torch.from_numpy(np.asarray(positions)))
            made.at.copy_(torch.arange(length, length + tokens))
            made.rows.copy_(torch.from_numpy(np.asarray(rows, np.int64)))
            made.causal_after = length if mask is None else None
            if mask is None:
                torch.le(self._columns[None], made.at[:, None], out=made.mask)
            else:
                seen = torch.zeros(tokens, self.s_max, dtype=torch.bool)
                seen[:, :length] = True
                seen[:, length : length + tokens] = torch.from_numpy(mask)
                made.mask.copy_(seen)
        self.enqueue(tokens, len(rows))
        self.wait()
        with torch.inference_mode(), self._on_stream():
            logits: Floats = made.logits.float().cpu().numpy().copy()
        return logits

    def _pass(self, tokens: int, rows: int) -> _Pass:
        made = self._passes.get((tokens, rows))
        if made is None:
            whole: dict[str, Any] = {"device": self.device, "dtype": torch.int64}
            made = self._passes[tokens, rows] = _Pass(
                torch.zeros(tokens, self.width, device=self.device, dtype=self.dtype),
                torch.arange(tokens, **whole),
                torch.arange(tokens, **whole),
                self._columns[None] <= torch.arange(tokens, **whole)[:, None],
                torch.zeros(rows, **whole),
                torch.zeros(rows, self.vocabulary, device=self.device, dtype=self.dtype),
            )
            if len(self._passes) > _MAX_SHAPES:
                self._passes.popitem(last=False)
        self._passes.move_to_end((tokens, rows))
        return made

    def _step(self, made: _Pass) -> None:
        cos, sin = self._decoder.angles(made.positions, self.dtype)
        x, tokens = made.embeddings[None], len(made.embeddings)
        seen: Any = made.mask
        fused = tokens > GRAPH_ROWS and made.causal_after is not None
        valid = (made.causal_after or 0) + tokens if fused else self.s_max
        if fused:
            from torch.nn.attention.bias import causal_lower_right  # seconds of import, for long prefills alone

            seen = causal_lower_right(tokens, valid)
        for i, layer in enumerate(self._decoder.layers):
            query, key, value = layer.self_attn.project(layer.input_layernorm(x), cos, sin)
            keys, values = self._caches[2 * i], self._caches[2 * i + 1]
            keys.index_copy_(2, made.at, key)
            values.index_copy_(2, made.at, value)
            keys, values = keys[:, :, :valid], values[:, :, :valid]
            shared = query.shape[1] != keys.shape[1]
            y = nn.functional.scaled_dot_product_attention(query, keys, values, attn_mask=seen, enable_gqa=shared)
            x = layer.finish(x, y)
        made.logits.copy_(self._decoder.lm_head(self._decoder.model.norm(x[0].index_select(0, made.rows))))

    def _on_stream(self) -> Any:
        return torch.cuda.stream(self.stream)  # of None: no change


@contextmanager
def memory_told(what: str) -> Iterator[None]:
    """PyTorch's error of a full GPU as ours. Raises OutOfGpuMemory."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        said = str(error).split(". ")[0]
        raise OutOfGpuMemory(
            f"{what}: the GPU's memory is full ({said}); `event-captioner models plan` says what fits"
        ) from None


def _stream(device: torch.device, way: Sharing) -> tuple[Any, Any]:
    """A green context, where the way has one, and a stream. Raises GpuError."""
    if way.mode != "green_context":
        # PyTorch clamps a priority to what the GPU knows.
        return None, torch.cuda.Stream(device, priority=-5 if way.mode == "priority" else 0)  # type: ignore[no-untyped-call]
    green = getattr(torch.cuda, "GreenContext", None)
    if green is None or not hasattr(green, "Stream"):
        raise GpuError(f"gpu.sharing: {way}: torch {torch.__version__} has no streams in green contexts; install 2.11")
    try:
        part = green.create(num_sms=way.size)
        return part, part.Stream()
    except RuntimeError as error:
        raise GpuError(f"gpu.sharing: {way}: {' '.join(str(error).split())[:160]}; choose streams") from None
