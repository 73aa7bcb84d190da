"""End to end: a caption at an injected acceptance rate, for each placement of the draft and way to share the GPU.

The passes are real and have the shapes that the schedule gives them; only whether a draft token is accepted is drawn,
with one seed for all, so that combinations differ in time alone. That the rate is injected stands in every row.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from statistics import median

import numpy as np

from app.decoding.calibration import calibrate
from app.decoding.costs import Costs, iid
from app.decoding.sharing import choose_sharing
from app.gpu_checks.figures import Figure
from app.gpu_checks.passes import autoregressive
from app.gpu_checks.rig import DRAFTS, LAST_CHUNK, NEW_TOKENS, Rig, Side
from models.prompts import Prompt
from models.runtimes.nvidia import GpuError
from models.runtimes.shared import GpuShare, SharedDecoder, SharedVision
from models.runtimes.sharing import SERIAL, STREAMS, Sharing

WAYS = (SERIAL, STREAMS, Sharing("priority"), Sharing("green_context", 32), Sharing("chunked", LAST_CHUNK))
Combination = tuple[str, Sharing]
COMBINATIONS: tuple[Combination, ...] = (
    ("lead", SERIAL),
    ("serial", SERIAL),
    *(("overlap", way) for way in WAYS if way != SERIAL),
)
ROUND = 6  # drafts a round of the decode phase


def placements(rig: Rig, alphas: tuple[float, ...]) -> list[Figure]:
    """ms to a 40-token caption, for the target alone and for each combination and α; and what the plan would take."""
    alone = rig.milliseconds(lambda: autoregressive(rig.target, NEW_TOKENS), 3)
    figures = [Figure("caption, target alone", "torch", alone, "ms")]
    measured, refused = measure_ways(rig)
    rig.target_prefill_ms = measured[SERIAL].target_prefill.ms
    step_ms = measured[SERIAL].drafter_step.ms
    for alpha in alphas:
        times: dict[Combination, float] = {}
        for placement, way in COMBINATIONS:
            name = f"caption, {placement}, {way}, α {alpha} injected"
            if way in refused:
                figures.append(Figure(name, "torch", None, "ms", note=refused[way]))
                continue
            rig.drafter.decoder.place(STREAMS if way.by_turns else way)
            took = times[placement, way] = _median(rig, placement, way, alpha, step_ms)
            figures.append(Figure(name, "torch", took, "ms"))
        for ahead in (True, False):
            figures += chosen(measured, times, alpha, ahead=ahead)
    rig.drafter.decoder.place(STREAMS)
    return figures


def measure_ways(rig: Rig) -> tuple[dict[Sharing, Costs], dict[Sharing, str]]:
    """The start-up calibration under each way, and the ways that this machine refuses."""
    share = GpuShare(rig.drafter.decoder, rig.target.decoder, WAYS)
    drafter, target = (_Shared(side, share, parted=side is rig.target) for side in (rig.drafter, rig.target))
    prompts = tuple(Prompt((1,), s.network.visual_tokens, (2,) * (s.text - 1)) for s in (rig.drafter, rig.target))
    pixels = tuple(s.pixels.float().cpu().numpy() for s in (rig.drafter, rig.target))
    found: dict[Sharing, Costs] = {}
    refused: dict[Sharing, str] = {}
    for way in WAYS:
        try:
            share.use(way)
            costs = calibrate(drafter, target, prompts, pixels, cores=1)  # type: ignore[arg-type]
            found[way] = replace(costs, sharing=str(way))
        except GpuError as error:
            refused[way] = str(error)
    return found, refused


def chosen(
    measured: dict[Sharing, Costs], times: dict[Combination, float], alpha: float, *, ahead: bool
) -> list[Figure]:
    """What the plan takes by the calibration's costs alone, against the best that was measured."""
    at: list[Sharing] = [SERIAL]

    def use(way: Sharing) -> None:
        at[0] = way

    costs = choose_sharing(tuple(measured), use, lambda: measured[at[0]], alpha, NEW_TOKENS, lambda event, **what: None)
    options = ("lead", "serial", "overlap") if ahead else ("serial", "overlap")
    curve, way = iid(alpha), Sharing.parse(costs.sharing)
    best = min(options, key=lambda placement: costs.hiding_ms(curve, NEW_TOKENS, placement))
    if best == "overlap" and way == SERIAL:
        best = "serial"  # by turns there is nothing that overlaps
    plan = best, way if best == "overlap" else SERIAL
    open_to_it = {key: took for key, took in times.items() if key[0] in options}
    quickest = min(open_to_it, key=lambda key: open_to_it[key])
    kind = "chosen plan" if ahead else "chosen plan without lead"
    note = f"{plan[0]}, {plan[1]}; best: {quickest[0]}, {quickest[1]}"
    serial_ms = open_to_it["serial", SERIAL]
    title = f"{kind} ÷ %s, α {alpha} injected"
    return [
        Figure(title % "best combination", "torch", times[plan] / times[quickest], "×", most=1.02, note=note),
        Figure(title % "serial", "torch", times[plan] / serial_ms, "×", most=1.0, note=note),
    ]


class _Shared:
    """A side of the rig as the calibration wants it, behind the share."""

    def __init__(self, side: Side, share: GpuShare, *, parted: bool) -> None:
        self.vision = SharedVision(side.vision, share)
        self.decoder = SharedDecoder(side.decoder, share, parted=parted)
        self.eos_id, self.vocabulary = side.eos_id, side.vocabulary


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


def caption(rig: Rig, placement: str, way: Sharing, fates: Iterator[bool], step_ms: float) -> None:
    """One caption of NEW_TOKENS: the draft as placed, a prefill whose last chunk carries it, then rounds.

    step_ms: of the drafter, by which it is known how many drafts a prefill has room for.
    """
    target, side = rig.target.decoder, rig.drafter
    last = min(LAST_CHUNK, rig.target.prompt)
    before = rig.target.prompt - last
    drafts = DRAFTS
    if placement == "serial":
        side.prefill()
        _draft(side, drafts)
        side.decoder.wait()
    rig.target.encode()
    if placement == "overlap" and way.mode == "chunked":
        drafts = _prefill_by_turns(rig, before, way.size)
    elif placement == "overlap":
        side.prefill()
        drafts = min(DRAFTS, max(1, int(before / rig.target.prompt * rig.target_prefill_ms / max(step_ms, 1e-3))))
        _draft(side, drafts)
        _prefill(rig, before)
        target.wait()
        side.decoder.wait()
    else:
        _prefill(rig, before)
    target.enqueue(last + drafts, 1 + drafts, before)
    target.wait()
    made = 1 + _accepted(drafts, fates)
    while made < NEW_TOKENS:
        count = min(ROUND, NEW_TOKENS - made)
        _draft(side, count)
        side.decoder.wait()
        target.enqueue(1 + count, 1 + count)
        target.wait()
        made += 1 + _accepted(count, fates)


def _prefill(rig: Rig, rows: int) -> None:
    if rows:
        rig.target.decoder.enqueue(rows, 1, 0)


def _prefill_by_turns(rig: Rig, rows: int, size: int) -> int:
    """Parts of the target's prefill with the drafter between: its own prefill first, then a step; how many steps."""
    steps = 0
    for begin in range(0, rows, size):
        rig.target.decoder.enqueue(min(size, rows - begin), 1, begin)
        rig.target.decoder.wait()
        if begin == 0:
            rig.drafter.prefill()
        else:
            _draft(rig.drafter, 1)
            steps += 1
        rig.drafter.decoder.wait()
    return max(1, steps)


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


def _median(rig: Rig, placement: str, way: Sharing, alpha: float, step_ms: float) -> float:
    """Over a few captions; with `lead` the draft was made before the window closed, and costs the caption nothing."""
    times = []
    for seed in range(-1, max(3, rig.repeats // 4)):
        rig.wait()
        begin = time.perf_counter()
        caption(rig, placement, way, fates(alpha, max(0, seed)), step_ms)
        rig.wait()
        if seed >= 0:  # the first one captures the graphs
            times.append((time.perf_counter() - begin) * 1e3)
    return float(np.median(times))
