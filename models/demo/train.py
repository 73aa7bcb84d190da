"""Makes the demo pair from nothing: street, tokenizer, target, drafter, then the drafter on the target's own words.

One command, seeded and resumable: everything lies under the output folder, and a second run goes on where the first
one stopped. The finished checkpoints are <out>/target and <out>/drafter, their quality <out>/quality.json.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from models.demo import lessons, quality
from models.demo.data import Side, Street, load, prepare
from models.demo.lessons import DrafterStudent, TargetStudent
from models.demo.pair import new_drafter, new_target, round_to_half, save_drafter, save_target
from models.demo.recipe import FULL, SMOKE, VALIDATION_SEED, Recipe, Stage
from models.demo.stages import run_stage
from models.demo.tokenizer_training import train_tokenizer
from models.demo.world.scoring import SHOWN_BY_EVENTS
from models.eventgpt import EventGPT
from models.prompts import QUESTION, Prompt, eventgpt_prompt, video_llava_prompt
from models.tokenizer import Tokenizer, load_tokenizer
from models.video_llava import VideoLlava

SEED = 1
LOG_SECONDS = 20.0


@dataclass
class Workshop:
    """Where training happens: folders, progress, and what several stages share."""

    out: Path
    recipe: Recipe
    progress: Progress
    device: torch.device

    @property
    def work(self) -> Path:
        """Interrupted and finished stages."""
        return self.out / "work"

    @cached_property
    def tokenizer(self) -> Tokenizer:
        if not (self.out / "tokenizer.json").exists():
            train_tokenizer(self.out / "tokenizer.json")
        return load_tokenizer(self.out)

    def target_prompt(self, model: VideoLlava) -> Prompt:
        return video_llava_prompt(self.tokenizer, QUESTION, model.visual_tokens)

    def drafter_prompt(self, model: EventGPT) -> Prompt:
        return eventgpt_prompt(self.tokenizer, QUESTION, model.visual_tokens)

    def street(self, side: Side, first: int, count: int) -> Street:
        """The windows of `count` seeds from `first`, rendered where they are not on disk yet."""
        seeds = range(first, first + count)
        task = self.progress.add_task(f"street from seed {first:,}", total=count, note="")
        prepare(self.out / "data", seeds, self.recipe.windows, self._advance(task))
        self.progress.remove_task(task)
        return load(self.out / "data", seeds, side)

    @cached_property
    def validation(self) -> tuple[Street, Street]:
        """Frames and events of the same windows, never trained on."""
        count = self.recipe.validation_seeds
        return self.street("frames", VALIDATION_SEED, count), self.street("events", VALIDATION_SEED, count)

    @cached_property
    def checked(self) -> NDArray[np.int64]:
        """The validation windows of the metrics, spread evenly."""
        windows = len(self.validation[0])
        return np.linspace(0, windows - 1, min(self.recipe.checked, windows)).astype(np.int64)

    def run(self, name: str, stage: Stage, student: TargetStudent | DrafterStudent, loss: lessons.Loss) -> None:
        """One stage with its progress bar; a line now and then for those who read a log."""
        self.work.mkdir(parents=True, exist_ok=True)
        task = self.progress.add_task(name, total=stage.steps, note="")
        started, last = time.monotonic(), [0.0]

        def report(step: int, smoothed: float) -> None:
            self.progress.update(task, completed=step, note=f"loss {smoothed:.3f}")
            if time.monotonic() - last[0] > LOG_SECONDS or step == stage.steps:
                last[0] = time.monotonic()
                self.say(f"{name} {step}/{stage.steps} loss {smoothed:.3f} ({last[0] - started:.0f} s)")

        modules = [
            module.to(self.device) for module in (student.vision, student.decoder, student.heads, student.midway)
        ]
        run_stage(name, stage, modules, student.tower, loss, self.work, report)
        self.progress.remove_task(task)

    def say(self, line: str) -> None:
        self.progress.console.print(line, highlight=False)

    def judge(
        self, name: str, captions: Sequence[Sequence[int]], among: Sequence[str] | None = None
    ) -> dict[str, float]:
        """Attributes (`among` them; None: all) right in captions of the checked windows, printed and returned."""
        texts = [self.tokenizer.decode(ids) for ids in captions]
        shares = quality.attributes_right(texts, list(self.validation[0].truth[self.checked]), among)
        self.say(f"{name}: attributes right " + ", ".join(f"{key} {share:.3f}" for key, share in shares.items()))
        self.say(f"  e.g. {texts[0]!r}")
        return shares

    def _advance(self, task: Any) -> Callable[[], None]:
        return lambda: self.progress.advance(task)


def train_demo(out: Path, smoke: bool = False, longer: float = 1.0) -> dict[str, Any]:
    """Train the pair into `out` and return its quality on held-out windows. Resumes what an earlier run left there.

    `smoke` first measures the untrained pair, for comparison: under `untrained` in what is returned. `longer`: so many
    times the recipe's data and steps.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[note]}")) as progress:
        shop = Workshop(out, SMOKE if smoke else FULL.longer(longer), progress, device)
        before: dict[str, Any] = {}
        if smoke:
            nobody = new_target(SEED).to(device).eval(), new_drafter(SEED + 1).to(device).eval()
            before = {"untrained": measure(shop, *nobody)}
        target = teach_target(shop)
        drafter = align(shop, target, teach_drafter(shop))
        measured = measure(shop, target, drafter) | before
    (out / "quality.json").write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
    return measured


def teach_target(shop: Workshop) -> VideoLlava:
    """Tower, speech, then captions: first from a part of what there is to see, then from all of it."""
    recipe, model = shop.recipe, new_target(SEED)
    street = shop.street("frames", 0, recipe.seeds)
    student = TargetStudent(model, street, shop.target_prompt(model))
    text, words = shop.tokenizer, recipe.target_text.batch
    tower, sketch, whole = recipe.target_tower, recipe.target_sketch, recipe.target_captions
    shop.run("target-tower", tower, student, lambda rng: lessons.sight_loss(student, rng, tower.batch))
    shop.run("target-text", recipe.target_text, student, lambda r: lessons.text_loss(student, street, text, r, words))
    shop.run("target-sketch", sketch, student, lambda r: lessons.speech_loss(student, text, r, sketch.batch, False))
    shop.run("target-captions", whole, student, lambda r: lessons.speech_loss(student, text, r, whole.batch, True))
    round_to_half(model)
    save_target(model, shop.out / "target", shop.out / "tokenizer.json")
    return model.eval()


def teach_drafter(shop: Workshop) -> EventGPT:
    """Tower, speech, then true captions."""
    recipe, model = shop.recipe, new_drafter(SEED + 1)
    street = shop.street("events", 0, recipe.seeds)
    student = DrafterStudent(model, street, shop.drafter_prompt(model))
    text, words = shop.tokenizer, recipe.drafter_text.batch
    tower, speech = recipe.drafter_tower, recipe.drafter_captions
    shop.run("drafter-tower", tower, student, lambda rng: lessons.sight_loss(student, rng, tower.batch))
    shop.run("drafter-text", recipe.drafter_text, student, lambda r: lessons.text_loss(student, street, text, r, words))
    shop.run("drafter-captions", speech, student, lambda r: lessons.speech_loss(student, text, r, speech.batch, True))
    return model


def align(shop: Workshop, target: VideoLlava, drafter: EventGPT) -> EventGPT:
    """The drafter's last lesson is the target's own captions."""
    tokenizer, last = shop.tokenizer, shop.recipe.drafter_aligned
    told = shop.recipe.told_seeds
    student = DrafterStudent(drafter, shop.street("events", 0, told), shop.drafter_prompt(drafter))
    said = _target_says(shop, target, shop.street("frames", 0, told))
    shop.run(
        "drafter-aligned",
        last,
        student,
        lambda rng: lessons.speech_loss(student, tokenizer, rng, last.batch, True, said),
    )
    round_to_half(drafter)
    save_drafter(drafter, shop.out / "drafter", shop.out / "tokenizer.json")
    return drafter.eval()


def measure(shop: Workshop, target: VideoLlava, drafter: EventGPT) -> dict[str, Any]:
    """How right both are, and how well they agree, on the checked windows; printed and returned."""
    tokenizer, eos = shop.tokenizer, shop.tokenizer.eos_id
    (frames, events), checked = shop.validation, shop.checked
    prompt = shop.drafter_prompt(drafter)
    theirs = quality.target_captions(target, shop.target_prompt(target), frames, checked, eos)
    ours = quality.drafter_captions(drafter, prompt, events, checked, eos)
    alpha, alpha_content = quality.agreement(drafter, prompt, events, checked, theirs, tokenizer)
    accepted = sum(a == b for a, b in zip(theirs, ours, strict=True)) / len(checked)
    measured = {
        "windows": len(checked),
        "target": shop.judge("target", theirs),
        "drafter": shop.judge("drafter", ours, SHOWN_BY_EVENTS),
        "alpha": alpha,
        "alpha_content": alpha_content,
        "fully_accepted_share": accepted,
    }
    shop.say(f"α {alpha:.3f}, on content words {alpha_content:.3f}")
    return measured


def _target_says(shop: Workshop, target: VideoLlava, street: Street) -> list[list[int]]:
    """The target's captions of every window of the drafter's street, kept on disk."""
    path = shop.work / "target-says.json"
    if not path.exists():
        prompt, every = shop.target_prompt(target), np.arange(len(street))
        said: list[list[int]] = []
        task = shop.progress.add_task("target captions", total=len(street), note="")
        for part in np.split(every, range(64, len(every), 64)):
            said += quality.target_captions(target, prompt, street, part, shop.tokenizer.eos_id)
            shop.progress.update(task, completed=len(said))
        shop.progress.remove_task(task)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(said), encoding="utf-8")
        partial.rename(path)
    ids: list[list[int]] = json.loads(path.read_text(encoding="utf-8"))
    size = shop.tokenizer.size
    return [[i for i in row if i < size] for row in ids]  # what is beyond the drafter's vocabulary it cannot say
