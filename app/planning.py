"""The plan of a pair on this machine: what each phase costs, measured or kept from before, and how a GPU is shared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import structlog

from app.decoding.calibration import available_cores, calibrate, median_ms
from app.decoding.costs import Costs
from app.decoding.plan_cache import cache_key, cached, installed, processor
from app.decoding.sharing import choose_sharing
from app.decoding.survival import Acceptance
from models.bundle import VisionLanguageModel
from models.runtimes.contract import Floats
from models.runtimes.nvidia import GpuError
from models.runtimes.shared import device_of, ladder_of, on_gpu, runtime_of, share_of
from models.runtimes.sharing import Sharing

if TYPE_CHECKING:
    from app.captioner import CaptionerSettings

log = structlog.get_logger(__name__)

BUSY = 100_000  # events of a busy drafter's span, by which its preprocessing is measured

Pair = tuple[VisionLanguageModel, VisionLanguageModel]  # drafter, target


def generations(models: Sequence[VisionLanguageModel]) -> list[int]:
    """How often each model was loaded: it changes when one falls to its next runtime."""
    return [ladder.generation for ladder in map(ladder_of, models) if ladder]


def plan(pair: Pair, settings: CaptionerSettings, prompt_rows: int, folder: Path) -> tuple[Costs, bool]:
    """Costs of this machine, with the models on the runtimes that they have now, and whether they were in `folder`.

    prompt_rows: of the target's prompt. The way of sharing a GPU that they belong to is in use afterwards. Overwrites
    both caches. Raises ModelError.
    """
    drafter, target = pair
    share = share_of(target)
    if share and not share.ways:
        share = None  # one of the two runs on the CPU by now
    for ladder in filter(None, map(ladder_of, pair)):
        ladder.planned = True

    def measure() -> Costs:
        both = on_gpu(drafter) and on_gpu(target)  # where the host's threads do nothing
        return measure_costs(drafter, target, settings, 1 if both else None)

    def measure_ways() -> Costs:
        if share is None:
            return measure()
        tokens = Acceptance(alpha=settings.prior_alpha).tokens
        return choose_sharing(share.ways, share.use, measure, settings.prior_alpha, tokens, log.info)

    key = cache_key(
        str(drafter.manifest),
        str(target.manifest),
        *(runtime_of(model) for model in pair),
        processor(),
        str(available_cores()),
        *(found for name in ("onnxruntime", "torch") if (found := installed(name))),
        settings.question,
        str(settings.threads),
        str(share.ways if share else ""),
        *(device_of(model) for model in pair),
        *(part.name for part in fields(Costs)),
    )
    file, before = folder / f"calibration-{key}.json", generations(pair)
    step = np.zeros((1, target.decoder.width), np.float32)
    row, length = np.zeros(1, np.int64), prompt_rows
    costs, kept = cached(
        file,
        lambda threads: median_ms(lambda: target.decoder.forward(step, length, row, threads), 21),
        measure_ways,
    )
    if generations(pair) != before:  # a model fell meanwhile: of no runtime are these the costs
        file.unlink(missing_ok=True)
    if share and kept:
        try:
            share.use(Sharing.parse(costs.sharing))
        except GpuError as error:  # the driver or the GPU is another one
            log.warning("sharing_refused", way=costs.sharing, reason=str(error))
            costs = measure_ways()
    phases = [value for value in asdict(costs).values() if isinstance(value, dict) and "threads" in value]
    wanted = {phase["threads"] for phase in phases} | set(costs.overlap_threads)
    for part in (drafter.vision, drafter.decoder, target.vision, target.decoder):
        part.keep(wanted)  # calibration has tried every count
    return costs, kept


def lead_ms(costs: Costs, tokens: float) -> float:
    """Half as long again as a draft of `tokens` was measured to take, and what starting it costs."""
    return 1.5 * costs.draft_ms(tokens) + 5.0


def measure_costs(
    drafter: VisionLanguageModel, target: VisionLanguageModel, settings: CaptionerSettings, cores: int | None = None
) -> Costs:
    """Calibrate a pair on so many cores (None: all), with its real prompts. Overwrites both caches."""
    size = 64  # any picture will do; the shapes after preprocessing are what counts
    noise = np.random.default_rng(0).integers(0, 255, (size, size, 3), np.uint8)
    frames = target.pixels_from_frames([noise] * settings.frames)
    x, y, p = np.random.default_rng(0).integers(0, (346, 260, 2), (BUSY, 3)).T.astype(np.int16)
    pixels: list[Floats] = []
    preprocess_ms = median_ms(lambda: pixels.append(drafter.pixels_from_events(x, y, p, (346, 260))), 3)
    prompts = drafter.prompt(settings.question), target.prompt(settings.question)
    costs = calibrate(drafter, target, prompts, (pixels[0], frames), cores, settings.threads)
    return replace(costs, drafter_preprocess_ms=preprocess_ms)
