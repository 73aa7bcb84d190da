"""Runs every strategy over the same windows, window by window in turn, so that a drifting machine is fair to all."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import numpy as np

from app.bench.injected import ScriptedDecoder
from app.bench.windows import BenchWindow
from app.captioner import Captioner, CaptionerSettings
from app.decoding.costs import Costs
from app.decoding.guard import Guard
from app.decoding.survival import Acceptance
from app.records import Caption
from app.telemetry.summary import Summary
from models.bundle import VisionLanguageModel

TIE = 1e-4  # top-1 minus top-2 logit below which two correct computations may pick different tokens

Pair = tuple[VisionLanguageModel, VisionLanguageModel]


@dataclass(slots=True)
class Lane:
    """One row of a table: a strategy at one plan, with what it measured."""

    name: str
    strategy: str
    placement: str | None
    costs: Costs
    guard: bool = True
    sources: tuple[str, ...] | None = None  # of drafts; None: as configured
    drafter: VisionLanguageModel | None = None  # stands in for the pair's own
    prior_alpha: float | None = None
    captions: list[Caption] = field(default_factory=list)
    mismatches: list[tuple[int, float]] = field(default_factory=list)  # (window, the reference's gap there)

    @property
    def ms(self) -> list[float]:
        """From the closed window to its verified caption."""
        return [(caption.finished_ns - caption.started_ns) / 1e6 for caption in self.captions]

    @property
    def prefill_ms(self) -> list[float]:
        """From the closed window to the end of the target's prefill, preprocessing and vision included."""
        return [
            max(s.end_ns - caption.started_ns for s in caption.spans if s.lane == "target" and s.name == "prefill")
            / 1e6
            for caption in self.captions
        ]

    @property
    def step_ms(self) -> list[float]:
        """One-token passes of the target."""
        return [s.ms for c in self.captions for s in c.spans if s.lane == "target" and s.name == "decode"]

    @property
    def placements(self) -> list[str | None]:
        return [caption.stats.placement for caption in self.captions]

    def summary(self) -> Summary:
        summary = Summary()
        for caption in self.captions:
            summary.add(caption)
        return summary


def run_lanes(
    lanes: Sequence[Lane],
    models: Pair,
    settings: CaptionerSettings,
    windows: Sequence[BenchWindow],
    progress: Callable[[], None],
) -> None:
    """Caption every window in every lane; the first lane is the reference (`autoregressive`) that all must equal.

    A window's draft ahead begins `lead` before it closes: the bench waits that long, as a live camera would make it.
    """
    with ExitStack() as stack:
        captioners = []
        for lane in lanes:
            captioners.append(_captioner(lane, models, settings))
            stack.callback(captioners[-1].close)
        for warm in windows[:1]:
            for captioner in captioners:
                captioner.caption(warm.closed, camera="warm-up")
                acceptance = Acceptance(alpha=captioner.settings.prior_alpha)
                captioner.engine.guard = Guard(captioner.costs, acceptance, enabled=captioner.settings.guard)
        for number, window in enumerate(windows):
            for lane, captioner in zip(lanes, captioners, strict=True):
                if isinstance(captioner.drafter.decoder, ScriptedDecoder):
                    said = lanes[0].captions[number]
                    captioner.drafter.decoder.tell((*said.token_ids, captioner.target.eos_id), number)
                if window.partial and captioner.drafts_ahead:
                    captioner.draft_ahead(window.partial)
                    time.sleep(captioner.lead_ms / 1e3)
                caption = captioner.caption(window.closed)
                lane.captions.append(caption)
                _compare(lane, lanes[0].captions[number], caption, number)
                progress()


def _captioner(lane: Lane, models: Pair, settings: CaptionerSettings) -> Captioner:
    wanted = replace(settings, strategy=lane.strategy, placement=lane.placement, guard=lane.guard)
    if lane.sources is not None:
        wanted = replace(wanted, sources=lane.sources)
    if lane.prior_alpha is not None:
        wanted = replace(wanted, prior_alpha=lane.prior_alpha)
    return Captioner(lane.drafter or models[0], models[1], wanted, costs=lane.costs)


def _compare(lane: Lane, reference: Caption, caption: Caption, number: int) -> None:
    """Note the first token at which the caption leaves the reference, with the reference's gap there."""
    place = first_difference(reference.token_ids, caption.token_ids)
    if place is not None:
        lane.mismatches.append((number, reference.gaps[place]))


def first_difference(a: Sequence[int], b: Sequence[int]) -> int | None:
    """Index of the first difference of two token lists; None when they are equal."""
    shared = min(len(a), len(b))
    different = np.flatnonzero(np.asarray(a[:shared]) != np.asarray(b[:shared]))
    if len(different):
        return int(different[0])
    return None if len(a) == len(b) else shared
