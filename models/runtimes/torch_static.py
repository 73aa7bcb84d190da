"""The contract on PyTorch for a GPU: static caches, no call that waits for the device, a CUDA graph a small shape.

The pass is the reference's (`models.llama`) with the cache written by index and the mask made of positions, so that
nothing depends on a number the host must know: then a graph can hold it. A large causal pass, which no graph holds,
attends to the valid rows alone by the fused causal kernel (flash attention). On a CPU all of it runs as it is, which is
how the tests compare it with the reference.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.llama import LlamaDecoder
from models.runtimes.contract import Floats, Ints, Likeliest, fitting
from models.runtimes.device_clock import DeviceClock, Interval
from models.runtimes.free_run import run_ahead
from models.runtimes.sharing import STREAMS, Sharing
from models.runtimes.torch_stream import StreamEvents, make_stream, memory_told, timing_event

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


@dataclass
class _Run:
    """A greedy step, all of it on the device: the token goes in and the next one comes out at the same address."""

    step: _Pass
    token: Tensor  # [1]
    probability: Tensor  # [1]
    tokens: Tensor  # [S_max], in pinned memory of the host: what each step has made
    probabilities: Tensor  # [S_max]


@dataclass(frozen=True)
class _Done:
    """Events around a step; on a CPU it is done by the time it was enqueued."""

    clock: DeviceClock
    begin: Any
    end: Any

    def wait(self) -> None:
        """Until the device has come to the end of the step."""
        if isinstance(self.end, torch.cuda.Event):
            self.end.synchronize()
        self.clock.note(self.begin, self.end)


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
        self._run: _Run | None = None
        self.clock = DeviceClock(None)
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

    def greedy(self, first: int, length: int, count: int) -> Generator[Likeliest]:
        """Tokens as the device makes them; see the contract. Embedding, pass and choice are one graph on a GPU."""
        if not 0 < count <= self.s_max - length:
            raise ValueError(f"decoder: {count} rows after {length} do not fit a cache of {self.s_max}")
        run = self._run = self._run or self._make_run()
        begin = self.clock.begin()
        with torch.inference_mode(), self._on_stream():
            run.token.fill_(first)
            run.step.at.fill_(length)

        def enqueue(k: int) -> _Done:
            with torch.inference_mode(), self._on_stream(), memory_told("decoder"):
                start = self.clock.mark() if k else begin
                self._replay(run.step, lambda: self._greedy_step(run))
                run.tokens[k].copy_(run.token[0], non_blocking=True)
                run.probabilities[k].copy_(run.probability[0], non_blocking=True)
                end = self.clock.mark() if self.stream is None else self.stream.record_event(timing_event())
            return _Done(self.clock, start, end)

        return run_ahead(enqueue, lambda k: Likeliest(int(run.tokens[k]), float(run.probabilities[k])), count)

    def busy(self) -> list[Interval]:
        """When the stream was busy, on the host's clock."""
        return self.clock.busy

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
        part, stream = make_stream(self.device, way)
        self.wait()
        for made in self._passes.values():
            made.graph, made.used = None, 0  # a graph belongs to the stream that it was captured on
        self._run = None
        # Weights and caches were written in the default stream, for which no other one waits.
        stream.wait_stream(torch.cuda.default_stream(self.device))
        self.stream, self._part, self._pool = stream, part, torch.cuda.graph_pool_handle()
        self.clock.follow(StreamEvents(stream))

    def enqueue(self, tokens: int, rows: int, length: int | None = None) -> None:
        """A pass over what its inputs hold, without waiting for it: a measurement's, or a drafter's that runs on.

        length: valid rows before it, where the inputs were not filled by `forward`.
        """
        with torch.inference_mode(), self._on_stream(), memory_told("decoder"):
            made = self._pass(tokens, rows)
            if length is not None:
                made.causal_after = length
            self._replay(made, lambda: self._step(made))

    def _replay(self, made: _Pass, work: Callable[[], None]) -> None:
        """Enqueue `work`, which is the same each time it is asked for with this pass: small ones as a graph."""
        made.used += 1
        if made.graph is not None:
            made.graph.replay()
            return
        if self.stream is None or made.used < 2 or len(made.embeddings) > GRAPH_ROWS:
            work()
            return
        self.stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        # Captured on the stream that replays it; the other model's thread may allocate and wait meanwhile.
        with torch.cuda.graph(graph, self._pool, self.stream, capture_error_mode="thread_local"):
            work()
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
        begin = self.clock.begin()
        self.enqueue(tokens, len(rows))
        end = self.clock.mark()
        self.wait()
        self.clock.note(begin, end)
        with torch.inference_mode(), self._on_stream():
            logits: Floats = made.logits.float().cpu().numpy().copy()
        return logits

    def _pass(self, tokens: int, rows: int) -> _Pass:
        made = self._passes.get((tokens, rows))
        if made is None:
            made = self._passes[tokens, rows] = self._make_pass(tokens, rows)
            if len(self._passes) > _MAX_SHAPES:
                self._passes.popitem(last=False)
        self._passes.move_to_end((tokens, rows))
        return made

    def _make_pass(self, tokens: int, rows: int) -> _Pass:
        whole: dict[str, Any] = {"device": self.device, "dtype": torch.int64}
        return _Pass(
            torch.zeros(tokens, self.width, device=self.device, dtype=self.dtype),
            torch.arange(tokens, **whole),
            torch.arange(tokens, **whole),
            self._columns[None] <= torch.arange(tokens, **whole)[:, None],
            torch.zeros(rows, **whole),
            torch.zeros(rows, self.vocabulary, device=self.device, dtype=self.dtype),
        )

    def _make_run(self) -> _Run:
        pinned = self.stream is not None
        with torch.inference_mode(), self._on_stream(), memory_told("decoder"):
            return _Run(
                self._make_pass(1, 1),
                torch.zeros(1, device=self.device, dtype=torch.int64),
                torch.zeros(1, device=self.device),
                torch.zeros(self.s_max, dtype=torch.int64, pin_memory=pinned),
                torch.zeros(self.s_max, pin_memory=pinned),
            )

    def _greedy_step(self, run: _Run) -> None:
        """The token's row, the likeliest token after it in its place, and the next cache row."""
        made = run.step
        made.embeddings.copy_(self._decoder.embed(run.token))
        made.positions.copy_(made.at)
        torch.le(self._columns[None], made.at[:, None], out=made.mask)
        self._step(made)
        logits = made.logits.float()
        best = logits.max(-1)
        run.token.copy_(best.indices)
        run.probability.copy_(torch.exp(best.values - logits.logsumexp(-1)))
        made.at.add_(1)

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
