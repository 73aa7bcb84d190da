"""The contract on the torch networks themselves: the reference that exports are compared with."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from models.llama import LlamaDecoder
from models.runtimes.contract import Floats, Ints, fitting
from models.runtimes.memory import need_memory
from models.runtimes.torch_static import StaticTorchDecoder
from models.runtimes.torch_stream import memory_told


class TorchVision:
    """Pixels to visual tokens."""

    def __init__(self, vision: nn.Module, decoder: StaticTorchDecoder | None = None) -> None:
        """On a GPU it runs in its decoder's stream: in the default one, the two models would wait for each other."""
        self._vision, self._decoder = vision, decoder

    def encode(self, pixels: Floats, threads: int) -> Floats:
        """Pixels [N, 3, S, S] to visual token embeddings [V, D]."""
        torch.set_num_threads(threads)
        stream, clock = (self._decoder.stream, self._decoder.clock) if self._decoder else (None, None)
        begin = clock.begin() if clock else None
        with torch.inference_mode(), torch.cuda.stream(stream), memory_told("vision"):
            weight = next(self._vision.parameters())
            found = self._vision(torch.from_numpy(pixels).to(weight.device, weight.dtype))
            end = clock.mark() if clock else None
            tokens: Floats = found.float().cpu().numpy()
        if clock:
            clock.note(begin, end)
        return tokens

    def warm_up(self, frames: int, image_size: int, threads: int) -> None:
        """Nothing is prepared ahead; the first pass costs no more than the next."""

    def keep(self, threads: Collection[int]) -> None:
        """Nothing is held for a thread count."""


class TorchDecoder:
    """A LlamaDecoder with caches of its own."""

    def __init__(self, decoder: LlamaDecoder, s_max: int) -> None:
        self.s_max, self.width, self.vocabulary = s_max, decoder.config.hidden_size, decoder.config.vocab_size
        self._decoder, self._caches = decoder, decoder.empty_caches(s_max)

    def embed(self, ids: Ints) -> Floats:
        """Token ids [T] to embeddings [T, D]."""
        with torch.inference_mode():
            embeddings: Floats = self._decoder.embed(torch.from_numpy(np.asarray(ids))).numpy()
        return embeddings

    def forward(self, embeddings: Floats, length: int, rows: Ints, threads: int) -> Floats:
        """Causal pass; see the contract."""
        tokens = fitting(self, embeddings, length)
        torch.set_num_threads(threads)
        with torch.inference_mode():
            logits: Floats = self._decoder(
                torch.from_numpy(np.ascontiguousarray(embeddings)),
                torch.arange(length, length + tokens),
                torch.tensor([length]),
                torch.tensor([length + tokens]),
                torch.from_numpy(np.asarray(rows)),
                self._caches,
            )[0].numpy()
        return logits

    def forward_tree(
        self, embeddings: Floats, positions: Ints, mask: NDArray[np.bool_], length: int, rows: Ints, threads: int
    ) -> Floats:
        """Masked pass; see the contract."""
        tokens = fitting(self, embeddings, length)
        torch.set_num_threads(threads)
        seen = torch.zeros(tokens, self.s_max, dtype=torch.bool)
        seen[:, :length] = True
        seen[:, length : length + tokens] = torch.from_numpy(mask)
        with torch.inference_mode():
            logits: Floats = self._decoder.tree(
                torch.from_numpy(np.ascontiguousarray(embeddings)),
                torch.from_numpy(np.asarray(positions)),
                torch.tensor([length]),
                seen,
                torch.from_numpy(np.asarray(rows)),
                self._caches,
            )[0].numpy()
        return logits

    def compact(self, length: int, kept: Ints) -> None:
        """Move cache rows `length + kept` (ascending) to rows length, length + 1, …"""
        with torch.inference_mode():
            for cache in self._caches:
                cache[:, :, length : length + len(kept)] = cache[:, :, torch.from_numpy(length + kept)]

    def warm_up(self, tokens: int, rows: int, threads: int) -> None:
        """Nothing is prepared ahead; the first pass costs no more than the next."""

    def keep(self, threads: Collection[int]) -> None:
        """Nothing is held for a thread count."""


def load(
    folder: Path, role: str, s_max: int, compute: str = "float32", *, gpu: bool = True
) -> tuple[TorchVision, TorchDecoder | StaticTorchDecoder]:
    """Both parts of a checkpoint folder: on an NVIDIA GPU where there is one, in the type that the export computes in.

    Without one, or told not to use it, in float32 on the CPU, the reference.

    Raises CheckpointError, and OutOfGpuMemory when they do not fit.
    """
    from models.eventgpt import EventGPT
    from models.video_llava import VideoLlava

    model: EventGPT | VideoLlava = EventGPT.load(folder) if role == "drafter" else VideoLlava.load(folder)
    if not (gpu and torch.cuda.is_available()):
        return TorchVision(model.vision), TorchDecoder(model.decoder, s_max)
    dtype = getattr(torch, compute)
    weights = sum(value.numel() for value in model.parameters()) * dtype.itemsize
    sizes = model.decoder.config
    caches = 2 * sizes.num_hidden_layers * sizes.num_key_value_heads * sizes.head_dim * s_max * dtype.itemsize
    need_memory(weights + caches, str(folder), torch.cuda.mem_get_info())
    with memory_told(str(folder)):
        model = model.to("cuda", dtype)
        decoder = StaticTorchDecoder(model.decoder, s_max)
    return TorchVision(model.vision, decoder), decoder
