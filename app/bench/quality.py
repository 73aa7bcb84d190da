"""How good the pair is: attributes right against the simulator's truth, agreement, and what its certainty is worth."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

import numpy as np
from rich.console import Console
from rich.table import Table

from app.captioner import Captioner
from app.decoding.drafting import Drafter
from app.records import Caption
from app.sensors.contract import Events, Frame
from app.telemetry.spans import SpanRecorder
from app.windows import Window, WindowFrame
from models.demo.world.dataset import Sample, windows
from models.demo.world.scoring import SHOWN_BY_EVENTS, Score
from models.demo.world.truth import SceneTruth
from models.demo.world.vocabulary import COLOURS, is_held_out

FIRST_SEED = {"seen": 3_000_000, "unseen": 4_000_000}  # training stays below 1,000,000
SECONDS = 12.0  # of each street
RESOLUTION = (346, 260)
CONFUSED = ("kind", "direction")  # the attributes whose mistakes are told apart

Mix = Literal["seen", "unseen"]


@dataclass(slots=True)
class Quality:
    """Counts over the windows of one mix of objects."""

    target: Score = field(default_factory=Score)
    drafter: Score = field(default_factory=Score)
    agreed: int = 0  # the target's tokens that the drafter would propose in their place
    tokens: int = 0
    agreed_content: int = 0  # the same over content words that events can show
    content: int = 0
    whole: int = 0  # captions that the drafter would write token for token
    captions: int = 0
    certainty: list[tuple[float, float]] = field(default_factory=list)  # (mean log-probability, share right)


def samples(mix: Mix, count: int, span_us: int) -> Iterator[Sample]:
    """`count` windows of streets that training never saw; of `unseen`, those with a combination it never saw."""

    def endless() -> Iterator[Sample]:
        seed = FIRST_SEED[mix]
        while True:
            for sample in windows(seed, SECONDS, hop_us=1_000_000, drafter_span_us=span_us, mix=mix):
                if mix == "seen" or _unseen(sample.truth):
                    yield sample
            seed += 1

    return islice(endless(), count)


def _unseen(truth: SceneTruth) -> bool:
    return any(is_held_out(thing.kind, thing.colour, thing.direction) for thing in truth.objects)


def measure(captioner: Captioner, mix: Mix, count: int, progress: Callable[[], None]) -> Quality:
    """Caption `count` windows with both models, each by itself."""
    quality = Quality()
    drafter = Drafter(captioner.drafter, captioner.prompts[0], captioner.engine.drafter_threads)
    colours = _colour_tokens(captioner)
    for number, sample in enumerate(samples(mix, count, captioner.settings.drafter_span_us)):
        window = window_of(number, sample)
        caption = captioner.caption(window)
        share = quality.target.add(caption.text, sample.truth)
        if share is not None:
            quality.certainty.append((caption.mean_logprob, share))
        _compare(quality, captioner, drafter, window, caption, sample.truth, colours)
        progress()
    return quality


def _compare(
    quality: Quality,
    captioner: Captioner,
    drafter: Drafter,
    window: Window,
    caption: Caption,
    truth: SceneTruth,
    colours: frozenset[int],
) -> None:
    """The drafter's own caption against the truth, and its picks in the place of each of the target's tokens."""
    model, said = captioner.drafter, [*caption.token_ids, captioner.drafter.eos_id]
    events = window.events
    drafter.begin(model.pixels_from_events(events.x, events.y, events.p, window.resolution), SpanRecorder())
    start = drafter.sequence.length, drafter.sequence.pending
    own: list[int] = []
    drafter.draft(own, captioner.settings.max_new_tokens, None, SpanRecorder())
    quality.drafter.add(model.tokenizer.decode([token for token in own if token != model.eos_id]), truth)

    length, prompt = start
    known = [min(token, model.vocabulary - 1) for token in said[:-1]]
    rows = np.concatenate([prompt, model.decoder.embed(np.asarray(known, np.int64))])
    wanted = np.arange(len(prompt) - 1, len(rows), dtype=np.int64)
    picks = model.decoder.forward(rows, length, wanted, drafter.threads.prefill)[:, : model.vocabulary].argmax(-1)
    content = captioner.target.tokenizer.content
    for pick, token in zip(picks.tolist(), said, strict=True):
        quality.tokens += 1
        quality.agreed += pick == token
        if token < len(content) and content[token] and token not in colours:
            quality.content += 1
            quality.agreed_content += pick == token
    quality.captions += 1
    quality.whole += own == said


def _colour_tokens(captioner: Captioner) -> frozenset[int]:
    tokenizer = captioner.target.tokenizer
    return frozenset(i for i in range(tokenizer.size) if tokenizer.piece(i).strip() in COLOURS)


def window_of(number: int, sample: Sample) -> Window:
    e = sample.events
    columns = (np.ascontiguousarray(e[name]) for name in ("t", "x", "y", "p"))
    frames = zip(sample.frames_us.tolist(), sample.frames, strict=True)
    chosen = tuple(WindowFrame(Frame(t_us, image)) for t_us, image in frames)
    return Window(number, sample.start_us, sample.end_us, Events(*columns), chosen, (), RESOLUTION, 0)


def figures(seen: Quality, unseen: Quality) -> dict[str, Any]:
    """The JSON of both mixes."""
    return {
        "windows": seen.captions,
        "windows_unseen": unseen.captions,
        "target": {
            "attributes": seen.target.share(),
            "unseen_combinations": unseen.target.share(),
            "by_attribute": seen.target.by_attribute(),
            "confusion": {name: seen.target.confusion(name) for name in CONFUSED},
        },
        "drafter": {
            "attributes": seen.drafter.share(SHOWN_BY_EVENTS),
            "unseen_combinations": unseen.drafter.share(SHOWN_BY_EVENTS),
            "by_attribute": seen.drafter.by_attribute(),
            "confusion": {name: seen.drafter.confusion(name) for name in CONFUSED},
        },
        "alpha": seen.agreed / max(1, seen.tokens),
        "alpha_content": seen.agreed_content / max(1, seen.content),
        "fully_accepted_share": seen.whole / max(1, seen.captions),
        "calibration": calibration(seen.certainty),
    }


def calibration(pairs: list[tuple[float, float]]) -> list[dict[str, float]]:
    """Share of attributes right in each quarter of the captions, from the least to the most certain."""
    ordered = sorted(pairs)
    quarters = np.array_split(np.array(ordered), 4) if len(ordered) >= 4 else []
    return [
        {"mean_logprob": float(quarter[:, 0].mean()), "attributes": float(quarter[:, 1].mean())} for quarter in quarters
    ]


def print_quality(quality: dict[str, Any], console: Console) -> None:
    """The table for people."""
    title = f"quality on {quality['windows']} held-out windows, {quality['windows_unseen']} with unseen combinations"
    table = Table(title=title)
    for heading in ("", "target", "drafter"):
        table.add_column(heading, justify="right" if heading else "left")
    target, drafter = quality["target"], quality["drafter"]
    table.add_row("attributes right (drafter: without colour)", *map(_percent, _pick(target, drafter, "attributes")))
    table.add_row("  unseen combinations", *map(_percent, _pick(target, drafter, "unseen_combinations")))
    for name in target["by_attribute"]:
        table.add_row(f"  {name}", *map(_percent, (target["by_attribute"][name], drafter["by_attribute"].get(name))))
    console.print(table)
    small = Table(show_header=False)
    small.add_row("α, all tokens", f"{quality['alpha']:.3f}")
    small.add_row("α, content words that events show", f"{quality['alpha_content']:.3f}")
    small.add_row("captions wholly accepted", _percent(quality["fully_accepted_share"]))
    for quarter in quality["calibration"]:
        small.add_row(
            f"attributes right at mean log-probability {quarter['mean_logprob']:.3f}", _percent(quarter["attributes"])
        )
    if quality.get("eta") is not None:
        small.add_row("η of prefill_hiding, lead", f"{quality['eta']:.2f}")
    console.print(small)


def _pick(target: dict[str, Any], drafter: dict[str, Any], name: str) -> tuple[float | None, float | None]:
    return target[name], drafter[name]


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"
