"""How far the drafter agrees with each caption of the target, position by position: the cost model's input."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from app.decoding.model import CachedSequence
from app.records import Caption
from app.simulation.inputs import RANKS, CaptionCase
from app.windows import drafter_events
from models.bundle import VisionLanguageModel


def caption_cases(
    drafter: VisionLanguageModel, captions: Sequence[Caption], span_us: int, threads: int
) -> list[CaptionCase]:
    """The cost model's view of the target's own captions, in the order of their windows; one drafter pass each."""
    cases: list[CaptionCase] = []
    previous: tuple[int, ...] = ()
    for caption in captions:
        said = (*caption.token_ids, drafter.eos_id)
        cases.append(CaptionCase(_ranks(drafter, caption, said, span_us, threads), _shared(previous, said)))
        previous = said
    return cases


def _ranks(
    drafter: VisionLanguageModel, caption: Caption, said: tuple[int, ...], span_us: int, threads: int
) -> tuple[int, ...]:
    """Rank of each of the target's tokens in the drafter's distribution behind the target's own text."""
    window = caption.window
    events = drafter_events(window, span_us)
    pixels = drafter.pixels_from_events(events.x, events.y, events.p, window.resolution)
    sequence = CachedSequence(drafter)
    sequence.begin(drafter.prompt(caption.prompt), drafter.vision.encode(pixels, threads))
    known = [min(token, drafter.vocabulary - 1) for token in said[:-1]]
    logits = sequence.forward(known, threads)[:, : drafter.vocabulary]
    ranks = []
    for token, row in zip(said, logits, strict=True):
        ranks.append(min(RANKS, int((row > row[token]).sum())) if token < drafter.vocabulary else RANKS)
    return tuple(ranks)


def _shared(previous: Sequence[int], said: Sequence[int]) -> int:
    """Leading tokens in common."""
    shared = min(len(previous), len(said))
    different = np.flatnonzero(np.asarray(previous[:shared]) != np.asarray(said[:shared]))
    return int(different[0]) if len(different) else shared
