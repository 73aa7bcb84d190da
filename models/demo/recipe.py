"""How the demo pair is shaped and trained: every number of it, once for the real run and once for a minute's smoke."""

from __future__ import annotations

from dataclasses import dataclass, replace

from models.clip import ClipConfig
from models.llama import LlamaConfig

IMAGE = 96
PATCH = 16
VOCABULARY = 512  # ids of the tokenizer, which both models share
TARGET_ROWS = 576  # the target's table is larger, as the real one's is (32,000 → 32,064)
IMAGE_ID, VIDEO_ID, PAD_ID = 512, 513, 514

VALIDATION_SEED = 900_000  # the benchmark's seeds begin at 1,000,000: neither is ever trained on
EVENTS_SEED = 100_000  # windows with events; those with frames alone begin at 0


def _tower(width: int, layers: int) -> ClipConfig:
    return ClipConfig(width, 4 * width, layers, width // 32, IMAGE, PATCH, "quick_gelu", 1e-5)


def _decoder(rows: int, width: int, layers: int) -> LlamaConfig:
    return LlamaConfig(rows, width, width * 11 // 4, layers, width // 32, width // 32, 32, 1e-5, 10000.0, 1024)


TARGET_TOWER = _tower(128, 5)  # hidden_states[-2]: the fifth layer is in the file and never run
TARGET_DECODER = _decoder(TARGET_ROWS, 192, 4)
DRAFTER_TOWER = _tower(128, 3)
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
    """Data (seeds × seconds of street) and stages."""

    frame_seeds: int
    event_seeds: int
    validation_seeds: int
    seconds: float
    target_tower: Stage
    target_text: Stage
    target_sketch: Stage  # captions from half of the frames and a third of their tokens: four times cheaper
    target_captions: Stage
    drafter_tower: Stage
    drafter_captions: Stage
    drafter_aligned: Stage  # on the target's own captions
    checked: int  # validation windows of the metrics


FULL = Recipe(
    frame_seeds=120,
    event_seeds=48,
    validation_seeds=6,
    seconds=10.0,
    target_tower=Stage(780, 12, 1e-3, 1e-3, 300),
    target_text=Stage(60, 32, 2e-3, 0.0, 15),
    target_sketch=Stage(340, 16, 1e-3, 5e-4, 50),
    target_captions=Stage(110, 8, 5e-4, 1e-4, 10),
    drafter_tower=Stage(800, 12, 1e-3, 1e-3, 300),
    drafter_captions=Stage(560, 16, 1e-3, 5e-4, 50),
    drafter_aligned=Stage(150, 16, 6e-4, 1e-4, 15),
    checked=80,
)

SMOKE = replace(
    FULL,
    frame_seeds=4,
    event_seeds=2,
    validation_seeds=1,
    seconds=4.0,
    target_tower=Stage(20, 4, 1e-3, 1e-3, 5),
    target_text=Stage(10, 16, 2e-3, 0.0, 3),
    target_sketch=Stage(30, 8, 2e-3, 3e-4, 5),
    target_captions=Stage(4, 4, 5e-4, 1e-4, 1),
    drafter_tower=Stage(20, 4, 1e-3, 1e-3, 5),
    drafter_captions=Stage(30, 8, 2e-3, 3e-4, 5),
    drafter_aligned=Stage(15, 8, 1e-3, 1e-4, 3),
    checked=8,
)
