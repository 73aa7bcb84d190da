"""End to end: a caption at an injected acceptance rate, for each placement of the draft and way to share the GPU.

The passes are real and have the shapes that the schedule gives them; only whether a draft token is accepted is drawn,
with one seed for all, so that combinations differ in time alone. That the rate is injected stands in every row.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from statistics import median

from app.gpu_checks.figures import Figure
from app.gpu_checks.passes import autoregressive
from app.gpu_checks.rig import DRAFTS, NEW_TOKENS, Rig, Side

COMBINATIONS = (("lead", "serial"), ("serial", "serial"), ("overlap", "streams"), ("overlap", "priority"))


def placements(rig: Rig, alphas: tuple[float, ...] = (0.7, 0.8, 0.9)) -> list[Figure]:
    """ms to a 40-token caption, for the target alone and for each combination and α; the best serial one marked."""
    alone = rig.milliseconds(lambda: autoregressive(rig.target, NEW_TOKENS), 3)
    figures = [Figure("caption, target alone", "torch", alone, "ms")]
    for alpha in alphas:
        times = {combination: _median(rig, combination[0], combination[1], alpha) for combination in COMBINATIONS}
        best = min(times, key=lambda combination: times[combination])
        figures += [
            Figure(
                f"caption, {placement}, {sharing}, α {alpha} injected", "torch", value, "ms",
                note="the best" if (placement, sharing) == best else "",
            )
            for (placement, sharing), value in times.items()
        ]  # fmt: skip
    return figures


def overlap(rig: Rig) -> list[Figure]:
    """The drafter runs on while the target prefills: tokens it makes, what the prefill loses, time both really ran."""
    alone = rig.milliseconds(rig.target.prefill)
    step = rig.milliseconds(lambda: rig.drafter.decoder.enqueue(1, 1))
    count = max(1, int(alone / max(step, 1e-3)))

    def both() -> None:
        for _ in range(count):
            rig.drafter.decoder.enqueue(1, 1)
        rig.target.prefill()

    together = rig.milliseconds(both)
    prefill = median(_prefill_beside(rig, both) for _ in range(5))
    return [
        Figure("drafter steps beside one target prefill", "torch", float(count), "tokens", least=20),
        Figure("target prefill beside the drafter ÷ alone", "torch", prefill / alone, "×"),
        Figure("true overlap", "torch", max(0.0, alone + count * step - together), "ms", note=f"of {alone:.1f} ms"),
    ]


def _prefill_beside(rig: Rig, both: Callable[[], None]) -> float:
    """ms until the target's prefill is done, whatever the drafter still does."""
    rig.wait()
    begin = time.perf_counter()
    both()
    rig.target.decoder.wait()
    return (time.perf_counter() - begin) * 1e3


def caption(rig: Rig, placement: str, sharing: str, fates: Iterator[bool]) -> None:
    """One caption of NEW_TOKENS: draft, prefill and verify as placed; then rounds of draft and verify."""
    side = rig.urgent if sharing == "priority" else rig.drafter
    target, drafter = rig.target.decoder, side.decoder
    if placement == "lead":  # the draft was made before the window closed
        rig.target.prefill()
    else:
        side.prefill()
        _draft(side, DRAFTS)
        if placement == "serial":
            drafter.wait()
        rig.target.prefill()
        drafter.wait()
    target.wait()
    made = 1
    while made < NEW_TOKENS:
        count = min(DRAFTS if made == 1 else 6, NEW_TOKENS - made)
        if made > 1:
            _draft(side, count)
            drafter.wait()
        target.enqueue(1 + count, 1 + count)
        target.wait()
        made += 1 + _accepted(count, fates)


def _draft(side: Side, count: int) -> None:
    for _ in range(count):
        side.decoder.enqueue(1, 1)


def _accepted(count: int, fates: Iterator[bool]) -> int:
    for accepted in range(count):
        if not next(fates):
            return accepted
    return count


def fates(alpha: float, seed: int = 0) -> Iterator[bool]:
    """Whether each draft token is accepted, for ever."""
    source = random.Random(seed)
    while True:
        yield source.random() < alpha


def _median(rig: Rig, placement: str, sharing: str, alpha: float) -> float:
    """Over a few captions; with `lead` the draft was made before the window closed, and costs the caption nothing."""
    times = []
    for seed in range(-1, max(3, rig.repeats // 4)):
        rig.wait()
        begin = time.perf_counter()
        caption(rig, placement, sharing, fates(alpha, seed))
        rig.wait()
        if seed >= 0:  # the first one captures the graphs
            times.append((time.perf_counter() - begin) * 1e3)
    return median(times)
