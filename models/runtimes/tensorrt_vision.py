"""The vision side on TensorRT: pixels up, one pass in the model's stream, visual tokens back, from pinned memory."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from models.runtimes.contract import Floats
from models.runtimes.cuda import DeviceArray, PinnedArray
from models.runtimes.tensorrt_engine import Engine


class TensorRtVision:
    """Pixels to visual tokens."""

    def __init__(self, engine: Engine, manifest: Mapping[str, Any]) -> None:
        frames, size, width = manifest["frames"], manifest["image_size"], manifest["decoder"]["width"]
        self._frames, self._tokens, self._width = frames, manifest["visual_tokens"], width
        self._per_frame = self._tokens // frames if manifest["role"] == "target" else None
        self._engine, self._lane = engine, engine.lane
        self._pixels = PinnedArray((frames, 3, size, size), np.float32, "pixels")
        self._visual = PinnedArray((self._tokens, width), np.float32, "visual tokens")
        self._on_gpu = (
            DeviceArray(self._pixels.values.shape, 4, "pixels"),
            DeviceArray((self._tokens, width), 4, "visual"),
        )
        self._engine.bind({"pixels": self._on_gpu[0].address, "tokens": self._on_gpu[1].address})

    def encode(self, pixels: Floats, threads: int) -> Floats:
        """Pixels [N, 3, S, S], N at most a window's, to visual token embeddings [V, D]."""
        count, stream = len(pixels), self._lane.stream
        tokens = self._tokens if self._per_frame is None else count * self._per_frame
        self._pixels.values[:count] = pixels
        begin = self._lane.clock.begin()
        stream.copy(self._on_gpu[0].address, self._pixels.address, pixels.size * 4)
        self._engine.enqueue(0, {"pixels": pixels.shape})
        stream.copy(self._visual.address, self._on_gpu[1].address, tokens * self._width * 4)
        end = self._lane.clock.mark()
        stream.wait()
        self._lane.clock.note(begin, end)
        return self._visual.values[:tokens].copy()

    def warm_up(self, frames: int, image_size: int, threads: int) -> None:
        """One pass of this shape."""
        self.encode(np.zeros((frames, 3, image_size, image_size), np.float32), threads)

    def keep(self, threads: Collection[int]) -> None:
        """Nothing is held for a thread count."""
