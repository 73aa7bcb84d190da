"""The bundled pair's real acceptance: how often the drafter's next token is the target's, on the bundled recording."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np

from app.bench.windows import BenchWindow, make_windows
from app.gpu_checks.figures import Figure
from app.sensors.contract import SourceInfo
from app.sensors.events import cut
from app.windower import Windower
from models.bundle import VisionLanguageModel, load_model
from models.runtimes.contract import Floats

RECORDING = Path(__file__).parents[2] / "models" / "demo" / "recording.aedat4"
WINDOW_US, SPAN_US, LONGEST = 1_000_000, 400_000, 40


def acceptance(pair: Path, windows: int, runtime: str = "torch", drafter: Path | None = None) -> list[Figure]:
    """Share of caption tokens at which the drafter, given the target's words so far, says the target's next one.

    `drafter` names another drafter than the pair's: the same one with quantised weights.
    """
    if not RECORDING.is_file():
        return [Figure("demo pair, acceptance", runtime, None, "", note="the bundled recording is absent")]
    target = load_model(pair / "target", "target", runtime)  # type: ignore[arg-type]
    proposer = load_model(drafter or pair / "drafter", "drafter", runtime)  # type: ignore[arg-type]
    agreed = total = 0
    for window in (each.closed for each in _windows(windows)):
        images = [chosen.frame.image for chosen in window.frames]
        caption = _greedy(target, target.vision.encode(target.pixels_from_frames(images), 1))
        seen = cut(window.events, window.end_us - SPAN_US, window.end_us)
        pixels = proposer.pixels_from_events(seen.x, seen.y, seen.p, window.resolution)
        proposed = _proposals(proposer, proposer.vision.encode(pixels, 1), caption)
        agreed, total = agreed + sum(a == b for a, b in zip(proposed, caption, strict=True)), total + len(caption)
    note = f"real: {total} tokens of {windows} windows"
    return [Figure("demo pair, acceptance", runtime, agreed / max(1, total), "", note=note)]


def _windows(count: int) -> list[BenchWindow]:
    """Seconds 1, 2, … of the bundled recording."""

    def windower(info: SourceInfo, lead_us: int) -> Windower:
        return Windower(WINDOW_US, WINDOW_US, 8, lead_us, resolution=info.resolution)

    return asyncio.run(make_windows(count, windower, 0, lambda found: None, RECORDING))


def _prompt_rows(model: VisionLanguageModel, visual: Floats) -> Floats:
    prompt = model.prompt()
    head, tail = (model.decoder.embed(np.asarray(ids, np.int64)) for ids in (prompt.head_ids, prompt.tail_ids))
    return np.concatenate([head, visual, tail])


def _greedy(model: VisionLanguageModel, visual: Floats) -> list[int]:
    rows = _prompt_rows(model, visual)
    logits = model.decoder.forward(rows, 0, np.array([len(rows) - 1]), 1)
    made: list[int] = []
    while len(made) < LONGEST:
        made.append(int(logits[0].argmax()))
        if made[-1] == model.eos_id:
            break
        step = model.decoder.embed(np.array(made[-1:]))
        logits = model.decoder.forward(step, len(rows) + len(made) - 1, np.array([0]), 1)
    return made


def _proposals(model: VisionLanguageModel, visual: Floats, caption: list[int]) -> list[int]:
    """The model's own choice at each place of a caption, given the caption before it: one pass over all of it."""
    rows = _prompt_rows(model, visual)
    fed = np.concatenate([rows, model.decoder.embed(np.asarray(caption[:-1], np.int64))])
    logits = model.decoder.forward(fed, 0, np.arange(len(rows) - 1, len(fed)), 1)
    return [int(row.argmax()) for row in logits]
