"""The peer: transformers' own `generate` on the same checkpoint, greedy, float32, at its best thread count."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from app.bench.figures import percentiles
from app.bench.lanes import TIE, Lane, first_difference
from app.decoding.calibration import available_cores, thread_options
from models.bundle import VisionLanguageModel
from models.prompts import Prompt
from models.runtimes.contract import Floats


@dataclass(frozen=True, slots=True)
class PeerResult:
    """Milliseconds and tokens of each window; `threads` was the best count for it."""

    ms: list[float]
    tokens: list[list[int]]
    threads: int


class TransformersPeer:
    """`VideoLlavaForConditionalGeneration` from the target's checkpoint. Raises ImportError without transformers."""

    def __init__(self, checkpoint: Path, target: VisionLanguageModel, prompt: Prompt, max_new_tokens: int) -> None:
        import torch
        import transformers

        transformers.utils.logging.set_verbosity_error()
        self._torch = torch
        self._model: Any = transformers.VideoLlavaForConditionalGeneration.from_pretrained(
            str(checkpoint), dtype=torch.float32
        ).eval()
        video = self._model.config.video_token_id
        ids = [*prompt.head_ids, *[video] * prompt.num_visual, *prompt.tail_ids]
        self._ids = torch.tensor([ids])
        self._eos = target.eos_id
        self._max_new_tokens = max_new_tokens

    def choose_threads(self, pixels: Floats) -> int:
        """The quickest of 1, 2, … all cores for one caption."""
        best: dict[int, float] = {}
        for threads in thread_options(available_cores()):
            self._torch.set_num_threads(threads)
            self.generate(pixels)
            start = time.perf_counter()
            self.generate(pixels)
            best[threads] = time.perf_counter() - start
        threads = min(best, key=lambda count: best[count])
        self._torch.set_num_threads(threads)
        return threads

    def generate(self, pixels: Floats) -> list[int]:
        """Greedy tokens of one window, end-of-sequence excluded; pixels [frames, 3, H, W]."""
        with self._torch.inference_mode():
            out = self._model.generate(
                input_ids=self._ids,
                attention_mask=self._torch.ones_like(self._ids),
                pixel_values_videos=self._torch.from_numpy(np.ascontiguousarray(pixels))[None],
                do_sample=False,
                max_new_tokens=self._max_new_tokens,
                eos_token_id=self._eos,
                pad_token_id=self._eos,
            )
        new: list[int] = out[0, self._ids.shape[1] :].tolist()
        return new[: new.index(self._eos)] if self._eos in new else new

    def run(self, pixels: Sequence[Floats]) -> PeerResult:
        """Caption every window; pixels are made beforehand, so the peer is not charged for preprocessing."""
        threads = self.choose_threads(pixels[0])
        times, tokens = [], []
        for window in pixels:
            start = time.perf_counter()
            tokens.append(self.generate(window))
            times.append((time.perf_counter() - start) * 1e3)
        return PeerResult(times, tokens, threads)


def peer_figures(result: PeerResult, alone: Lane, hiding: Lane) -> dict[str, Any]:
    """The peer against our target alone and against prefill hiding, tokens and times."""
    differences = [
        (number, alone.captions[number].gaps[place])
        for number, tokens in enumerate(result.tokens)
        if (place := first_difference(alone.captions[number].token_ids, tokens)) is not None
    ]
    real = [difference for difference in differences if difference[1] > TIE]
    median = float(np.median(result.ms))
    return {
        "caption_ms": percentiles(result.ms),
        "threads": result.threads,
        "ratio": median / float(np.median(hiding.ms)),
        "autoregressive_ratio": median / float(np.median(alone.ms)),
        "token_identical": not real,
        "tie_gaps": [gap for _, gap in differences if gap <= TIE],
        "mismatches": len(real),
    }
