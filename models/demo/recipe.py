"""How the demo pair is shaped and trained: every number of it, once for the real run and once for a minute's smoke."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from models.clip import ClipConfig
from models.llama import LlamaConfig

IMAGE = 96
PATCH = 16
VOCABULARY = 512  # ids of the tokenizer, which both models share
TARGET_ROWS = 576  # the target's table is larger, as the real one's is (32,000 → 32,064)
IMAGE_ID, VIDEO_ID, PAD_ID = 512, 513, 514

VALIDATION_SEED = 900_000  # the benchmark's seeds begin at 1,000,000: neither is ever trained on


def _tower(width: int, layers: int) -> ClipConfig:
    return ClipConfig(width, 4 * width, layers, width // 32, IMAGE, PATCH, "quick_gelu", 1e-5)


def _decoder(rows: int, width: int, layers: int) -> LlamaConfig:
    return LlamaConfig(rows, width, width * 11 // 4, layers, width // 32, width // 32, 32, 1e-5, 10000.0, 1024)


TARGET_TOWER = _tower(128, 5)  # hidden_states[-2]: the fifth layer is in the file and never run
TARGET_DECODER = _decoder(TARGET_ROWS, 160, 8)  # deep and narrow: a step costs by its layers, training by its width
DRAFTER_TOWER = _tower(128, 4)
DRAFTER_DECODER = _decoder(VOCABULARY, 128, 2)


@dataclass(frozen=True)
class Stage:
    """One run of the optimiser; `tower_rate` is zero where the tower does not learn."""

    steps: int
    batch: int
    rate: float
    tower_rate: float = 0.0
    warmup: int = 100


@dataclass(frozen=True)
class Recipe:
    """Data (seeds × windows of street) and stages."""

    seeds: int
    windows: int  # of each seed
    validation_seeds: int
    target_tower: Stage
    target_text: Stage
    target_sketch: Stage  # captions from half of the frames and a third of their tokens: three times cheaper
    target_captions: Stage
    drafter_tower: Stage
    drafter_text: Stage
    drafter_captions: Stage
    told_seeds: int  # whose windows the target captions for the drafter's last lesson
    drafter_aligned: Stage  # on the target's own captions
    checked: int  # validation windows of the metrics

    def longer(self, times: float) -> Recipe:
        """The same with `times` the data and the steps."""
        scaled: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Stage):
                scaled[field.name] = replace(value, steps=max(1, round(value.steps * times)))
        for name in ("seeds", "told_seeds"):
            scaled[name] = max(1, round(getattr(self, name) * times))
        return replace(self, **scaled)


FULL = Recipe(
    seeds=1360,
    windows=12,
    validation_seeds=40,
    target_tower=Stage(5000, 16, 1e-3, 1e-3, 100),
    target_text=Stage(80, 32, 2e-3, 0.0, 15),
    target_sketch=Stage(8300, 16, 1e-3, 5e-4, 100),
    target_captions=Stage(1760, 8, 5e-4, 3e-4, 15),
    drafter_tower=Stage(3000, 14, 1e-3, 1e-3, 100),
    drafter_text=Stage(80, 32, 2e-3, 0.0, 15),
    drafter_captions=Stage(3500, 16, 1e-3, 4e-4, 50),
    told_seeds=200,
    drafter_aligned=Stage(350, 16, 8e-4, 2e-4, 20),
    checked=480,
)

SMOKE = replace(
    FULL,
    seeds=6,
    windows=6,
    validation_seeds=4,
    target_tower=Stage(20, 4, 1e-3, 1e-3, 5),
    target_text=Stage(120, 8, 2e-3, 0.0, 10),
    target_sketch=Stage(30, 8, 1e-3, 3e-4, 5),
    target_captions=Stage(4, 4, 5e-4, 1e-4, 1),
    drafter_tower=Stage(20, 4, 1e-3, 1e-3, 5),
    drafter_text=Stage(200, 8, 2e-3, 0.0, 10),
    drafter_captions=Stage(30, 8, 1e-3, 3e-4, 5),
    told_seeds=6,
    drafter_aligned=Stage(15, 8, 1e-3, 1e-4, 3),
    checked=24,  # so many that even one caption said of everything has some of each attribute right
)
