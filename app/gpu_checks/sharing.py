"""End to end: a caption at an injected acceptance rate, for each placement of the draft and way to share the GPU.

The passes are real and have the shapes that the schedule gives them; only whether a draft token is accepted is drawn,
with one seed for all, so that combinations differ in time alone. That the rate is injected stands in every row.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import replace
from statistics import fmean, median
from typing import NamedTuple

import numpy as np

from app.decoding.calibration import calibrate
from app.decoding.costs import Costs, iid
from app.decoding.sharing import choose_sharing
from app.gpu_checks.figures import Figure
from app.gpu_checks.passes import autoregressive
from app.gpu_checks.rig import DRAFTS, LAST_CHUNK, NEW_TOKENS, Rig, Side
from app.telemetry.spans import Span, overlap_ms
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


class Told(NamedTuple):
    """A caption: drafts there when the prefill's last chunk was launched, and how many of them stood."""

    ready: int
    stood: int


def placements(rig: Rig, alphas: tuple[float, ...], kind: str) -> Iterator[Figure]:
    """ms to a 40-token caption, for the target alone and for each combination and α; and what the plan would take.

    kind: of the drafter's weights, for the names of the rows.
    """
    alone = rig.milliseconds(lambda: autoregressive(rig.target, NEW_TOKENS), 3)
    yield Figure(f"caption, target alone ({kind})", "torch", alone, "ms")
    measured, refused = measure_ways(rig)
    rig.target_prefill_ms = measured[SERIAL].target_prefill.ms
    step_ms = measured[SERIAL].drafter_step.ms
    try:
        for alpha in alphas:
            given = f"{kind}, α {alpha} injected"
            times: dict[Combination, float] = {}
            for placement, way in COMBINATIONS:
                name = f"caption, {placement}, {way}, {given}"
                if way in refused:
                    yield Figure(name, "torch", None, "ms", note=refused[way])
                    continue
                rig.drafter.decoder.place(STREAMS if way.by_turns else way)
                took, told = _median(rig, placement, way, alpha, step_ms)
                times[placement, way] = took
                ready, stood = (fmean(each[place] for each in told) for place in (0, 1))
                hidden = "" if placement == "serial" else f"hidden tokens {ready:.1f}, accepted {stood:.1f}"
                yield Figure(name, "torch", took, "ms", note=hidden)
            for ahead in (True, False):
                yield from chosen(measured, times, alpha, given, ahead=ahead)
    finally:
        rig.drafter.decoder.place(STREAMS)


def traces(rig: Rig) -> dict[str, list[Span]]:
    """One caption under each way and placement, as both devices' own events tell it; a way that is refused is left."""
    step_ms = rig.milliseconds(lambda: rig.drafter.decoder.enqueue(1, 1), 3)
    rig.target_prefill_ms = rig.target_prefill_ms or rig.milliseconds(rig.target.prefill, 2)
    found: dict[str, list[Span]] = {}
    try:
        for placement, way in COMBINATIONS:
            try:
                rig.drafter.decoder.place(STREAMS if way.by_turns else way)
            except GpuError:
                continue
            for _ in range(3):  # the first two make the graphs
                spans = rig.spans(lambda p=placement, w=way: caption(rig, p, w, fates(0.8), step_ms))  # type: ignore[misc]
            found[f"{placement}, {way}"] = spans
    finally:
        rig.drafter.decoder.place(STREAMS)
    return found


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
    measured: dict[Sharing, Costs], times: dict[Combination, float], alpha: float, given: str, *, ahead: bool
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
    title = f"{kind} ÷ %s, {given}"
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


def overlap(rig: Rig, kind: str) -> list[Figure]:
    """The drafter runs on while the target prefills: tokens it makes, what the prefill loses, time both really ran.

    Both prompts are prefilled, as in a caption; the times are those of events in both streams.
    """
    alone = rig.milliseconds(rig.target.prefill)
    step = rig.milliseconds(lambda: rig.drafter.decoder.enqueue(1, 1))
    count = max(1, int(alone / max(step, 1e-3)))

    def both() -> None:
        rig.drafter.prefill()
        _draft(rig.drafter, count)
        rig.target.prefill()

    both()
    made, busy, shared = [], [], []
    for _ in range(5):
        spans = rig.spans(both)
        target = [span for span in spans if span.lane == "target"]
        if not target:
            why = "this GPU gave no event times"
            return [Figure(f"hidden tokens ({kind})", "torch", None, "tokens", least=20, note=why)]
        end_ns = max(span.end_ns for span in target)
        made.append(sum(span.end_ns <= end_ns for span in spans if span.name == "decode"))
        busy.append((end_ns - min(span.start_ns for span in target)) / 1e6)
        shared.append(overlap_ms(spans))
    least = 20 if kind == "int4" else None
    note = "drafter prefill and steps beside one target prefill, vision included"
    return [
        Figure(f"hidden tokens ({kind})", "torch", median(made), "tokens", least=least, note=note),
        Figure(f"target prefill beside the drafter ÷ alone ({kind})", "torch", median(busy) / alone, "×"),
        Figure(f"true overlap ({kind})", "torch", median(shared), "ms", note=f"of {median(busy):.1f} ms, by events"),
    ]


def caption(rig: Rig, placement: str, way: Sharing, fates: Iterator[bool], step_ms: float) -> Told:
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
    rig.target.enqueue("prefill and verify", last + drafts, 1 + drafts, before)
    target.wait()
    told = Told(drafts, _accepted(drafts, fates))
    made = 1 + told.stood
    while made < NEW_TOKENS:
        count = min(ROUND, NEW_TOKENS - made)
        _draft(side, count)
        side.decoder.wait()
        rig.target.enqueue("verify", 1 + count, 1 + count)
        target.wait()
        made += 1 + _accepted(count, fates)
    return told


def _prefill(rig: Rig, rows: int) -> None:
    if rows:
        rig.target.enqueue("prefill", rows, 1, 0)


def _prefill_by_turns(rig: Rig, rows: int, size: int) -> int:
    """Parts of the target's prefill with the drafter between: its own prefill first, then a step; how many steps."""
    steps = 0
    for begin in range(0, rows, size):
        rig.target.enqueue("prefill", min(size, rows - begin), 1, begin)
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
        side.enqueue("decode", 1, 1)


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


def _median(rig: Rig, placement: str, way: Sharing, alpha: float, step_ms: float) -> tuple[float, list[Told]]:
    """Over a few captions; with `lead` the draft was made before the window closed, and costs the caption nothing."""
    times, told = [], []
    for seed in range(-1, max(3, rig.repeats // 2)):
        rig.wait()
        begin = time.perf_counter()
        one = caption(rig, placement, way, fates(alpha, max(0, seed)), step_ms)
        rig.wait()
        if seed >= 0:  # the first one captures the graphs
            times.append((time.perf_counter() - begin) * 1e3)
            told.append(one)
    return float(np.median(times)), told
