"""Pictures of the demo pair at work, for docs/demo-pair.md: what the cameras saw, and what both models said of it.

python -m app.bench.album FOLDER [SEED:SECOND ...]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.bench.quality import RESOLUTION, window_of
from app.captioner import Captioner, CaptionerSettings
from app.decoding.drafting import Drafter
from app.telemetry.spans import SpanRecorder
from models.bundle import load_model
from models.demo.world.captions import caption
from models.demo.world.dataset import Sample, windows
from models.event_frames import render

PAIR = Path(__file__).parents[2] / "models" / "demo" / "pair"
SHOWN = ("7:7", "7:20", "7:11")  # seed of a street, and the second at which a window of it ends
SPAN_US = 400_000
GAP = 6  # pixels of white between pictures


def draw(sample: Sample) -> Image.Image:
    """The first, middle and last frame of a window above three of its five event frames, [2 × 260, 3 × 346]."""
    e = sample.events
    events = render(e["x"], e["y"], e["p"], resolution=RESOLUTION)
    rows = [[sample.frames[i] for i in (0, 4, 7)], [events[i] for i in (0, 2, 4)]]
    return Image.fromarray(_grid([[np.asarray(picture, np.uint8) for picture in row] for row in rows]))


def _grid(rows: list[list[NDArray[np.uint8]]]) -> NDArray[np.uint8]:
    def joined(parts: list[NDArray[np.uint8]], axis: int) -> NDArray[np.uint8]:
        shape = list(parts[0].shape)
        shape[axis] = GAP
        white = np.full(shape, 255, np.uint8)
        return np.concatenate([piece for part in parts for piece in (part, white)][:-1], axis=axis)

    return joined([joined(row, 1) for row in rows], 0)


def main(folder: Path, shown: tuple[str, ...]) -> None:
    """Write one picture a window and print the captions that belong below it, as Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    models = load_model(PAIR / "drafter", "drafter"), load_model(PAIR / "target", "target")
    settings = CaptionerSettings(strategy="autoregressive", drafter_span_us=SPAN_US)
    captioner = Captioner(*models, settings)
    drafter = Drafter(captioner.drafter, captioner.prompts[0], captioner.engine.drafter_threads)
    try:
        for name in shown:
            seed, second = (int(part) for part in name.split(":"))
            *_, sample = windows(seed, second, drafter_span_us=SPAN_US, mix="all")
            draw(sample).save(folder / f"{seed}-{second}.png", optimize=True)
            window = window_of(0, sample)
            target = captioner.caption(window).text
            drafter.begin(
                models[0].pixels_from_events(window.events.x, window.events.y, window.events.p, RESOLUTION),
                SpanRecorder(),
            )
            own: list[int] = []
            drafter.draft(own, captioner.settings.max_new_tokens, None, SpanRecorder())
            said = models[0].tokenizer.decode([token for token in own if token != models[0].eos_id])
            print(f"![Street {seed}, second {second}](images/{folder.name}/{seed}-{second}.png)\n")
            print(f"* drafter: {said}\n* target: {target}\n* true: {caption(sample.truth)}\n")
    finally:
        captioner.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), tuple(sys.argv[2:]) or SHOWN)
