"""Streaming prefill: the target's prompt head and the frames that are there, prefilled before the window closes.

Exact where every frame is encoded by itself into a run of prompt tokens of its own, as the Hugging Face port of
Video-LLaVA does it: attention is causal, so the cache rows of a frame hang on nothing that comes behind them. What was
prefilled for a frame that the window is not given after all is truncated, and prefilled anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import NamedTuple

from app.decoding.model import CachedSequence
from app.telemetry.spans import Span, SpanRecorder
from models.prompts import Prompt
from models.runtimes.contract import Floats

NO_SEQUENCE = -1


class Streamed(NamedTuple):
    """A frame in the cache."""

    frame: object
    length: int  # valid cache rows up to and with it
    spans: list[Span]  # what it took


class StreamingPrefill:
    """The leading frames of one window in the target's cache; forgotten as soon as another sequence is begun there."""

    def __init__(self, sequence: CachedSequence) -> None:
        self._sequence = sequence
        self._begun = NO_SEQUENCE  # the number of the sequence that the frames are in
        self._head: tuple[int, ...] = ()  # of its prompt
        self._frames: list[Streamed] = []

    def kept(self, prompt: Prompt, frames: Sequence[object]) -> int:
        """How many of a window's leading frames are in the cache behind the prompt's head."""
        if self._begun != self._sequence.begun or self._head != prompt.head_ids:
            return 0
        pairs = zip(self._frames, frames, strict=False)
        return sum(1 for _ in takewhile(lambda pair: pair[0].frame is pair[1], pairs))

    def spans(self, kept: int) -> list[Span]:
        """What the first `kept` frames took."""
        return [span for streamed in self._frames[:kept] for span in streamed.spans]

    def extend(
        self,
        prompt: Prompt,
        frames: Sequence[object],
        pixels: Callable[[int], Floats],
        threads: tuple[int, int],
        preempted: Callable[[], bool],
    ) -> None:
        """Prefill those of a window's leading `frames` that are not in the cache yet, each as one chunk.

        pixels(i): of frame i, [1, 3, H, W]; threads: of encoding and of prefill. Before each frame it leaves when
        `preempted`: what is done stays, what is missing is prefilled by another call or when the window closes.
        """
        for place in range(self.kept(prompt, frames), len(frames)):
            if preempted():
                return
            self._cut(prompt, place)
            recorder, here = SpanRecorder(), {"first_frame": place, "end_frame": place + 1}
            try:
                with recorder.span("preprocess", "host", model="target"):
                    shown = pixels(place)
                with recorder.span("encode", "target", frames=1, **here):
                    self._sequence.append(self._sequence.model.vision.encode(shown, threads[0]))
                rows = len(self._sequence.pending)
                with recorder.span("prefill", "target", tokens=rows, **here):
                    self._sequence.feed(rows, threads[1])
            except BaseException:
                self._begun = NO_SEQUENCE  # nobody knows what is pending
                raise
            self._frames.append(Streamed(frames[place], self._sequence.length, recorder.spans))

    def _cut(self, prompt: Prompt, kept: int) -> None:
        """Forget what is behind the first `kept` frames; without any, begin a sequence."""
        del self._frames[kept:]
        if kept:
            self._sequence.truncate(self._frames[-1].length)
        else:
            self._sequence.open(prompt.head_ids)
            self._begun, self._head = self._sequence.begun, prompt.head_ids
