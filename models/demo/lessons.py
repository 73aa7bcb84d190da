"""What each network learns in its stages: batches drawn from the street, and their losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import isqrt
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from models.demo.data import EVENT_FRAMES, Street, caption_of, pixels_of
from models.demo.midway import MidwayHeads
from models.demo.sight import SightHeads, owners
from models.demo.speech import caption_loss, caption_pass, encoded, padded, prefix
from models.demo.variation import STOPPED, Seen, Squares, Truth, mirrored, moved, recoloured, stopped
from models.eventgpt import EventGPT
from models.llama import LlamaDecoder
from models.prompts import Prompt
from models.tokenizer import Tokenizer
from models.video_llava import FRAMES, VideoLlava

Loss = Callable[[np.random.Generator], Tensor]  # a stage's loss, on a batch drawn from the generator

SIGHT_WEIGHT, MIDWAY_WEIGHT = 0.5, 0.5  # of the heads' losses beside the caption's
SKETCH = slice(1, FRAMES, 2)  # frames of a window that show its motion as well as all eight
SKETCH_FRAMES = len(range(FRAMES)[SKETCH])
SKETCH_PATCHES = 10

Drawn = NDArray[np.int64]  # numbers of windows of a street


@dataclass(frozen=True)
class Batch:
    """Windows drawn: images [B, t, 3, S, S], seen [B, t, 2, 8], truth [B, 2, 5], their numbers in the street [B]."""

    images: Tensor
    seen: Tensor
    truth: NDArray[np.int8]
    drawn: Drawn

    def at(self, device: torch.device) -> Batch:
        """With its tensors there."""
        return replace(self, images=self.images.to(device), seen=self.seen.to(device))

    @property
    def labels(self) -> Tensor:
        """`truth`, beside the images."""
        return torch.from_numpy(self.truth).to(self.images.device)


def draw(
    street: Street, among: Drawn, rng: np.random.Generator, size: int, part: slice, vary: bool, frames: bool
) -> Batch:
    """Random windows `among` these numbers, with the `part` of the images of each, which are `frames` or event frames;
    with `vary` each of them made another that is as true."""
    drawn = among[rng.integers(len(among), size=size)]
    windows = [(street.images[i, part], street.seen[i, part], street.truth[i]) for i in drawn.tolist()]
    if vary:
        windows = [_varied(*window, rng, frames) for window in windows]
    squares, seen, truth = (np.stack(parts) for parts in zip(*windows, strict=True))
    pixels = pixels_of(squares.reshape(-1, *squares.shape[2:])).reshape(size, -1, 3, *squares.shape[2:4])
    return Batch(torch.from_numpy(pixels), torch.from_numpy(seen), truth, drawn)


def _varied(
    squares: Squares, seen: Seen, truth: Truth, rng: np.random.Generator, frames: bool
) -> tuple[Squares, Seen, Truth]:
    """Event frames show no colour, and nothing that stands."""
    if frames and rng.random() < STOPPED:
        squares, seen, truth = stopped(squares, seen, truth, rng)
    if rng.random() < 0.5:
        squares, seen, truth = mirrored(squares, seen, truth) or (squares, seen, truth)
    if frames and rng.random() < 0.5:
        squares, seen, truth = recoloured(squares, seen, truth, rng) or (squares, seen, truth)
    return *moved(squares, seen, rng), truth


@dataclass(frozen=True)
class View:
    """A batch as a network sees it.

    What the heads read: patches [B, t, grid², C] and features [B, t, D] of images with `seen` [B, t, 2, 8]. What the
    decoder reads: visual embeddings [B, n, D], which are the prompt's visual rows `kept` [B, n] (None: all), and of
    which `rows` [i, m] are patches at `places` [B, i, m, 2] (x, y) of images with `shown` [B, i, 2, 8].
    """

    patches: Tensor
    features: Tensor
    seen: Tensor
    visual: Tensor
    rows: Tensor
    places: Tensor
    shown: Tensor
    kept: Tensor | None = None


class Student(Protocol):
    """A network in training, as the losses see it."""

    decoder: LlamaDecoder
    heads: SightHeads
    midway: MidwayHeads
    prompt: Prompt

    def draw(self, rng: np.random.Generator, size: int, whole: bool, vary: bool = True) -> Batch: ...

    def look(self, batch: Batch, whole: bool, rng: np.random.Generator) -> View: ...


class TargetStudent:
    """Video-LLaVA on RGB frames."""

    def __init__(self, model: VideoLlava, street: Street, prompt: Prompt) -> None:
        self.vision, self.decoder = model.vision, model.decoder
        self.tower = model.vision.video_tower
        self.tokens = self.tower.config.tokens
        width = self.tower.config.hidden_size
        self.heads = SightHeads(width, width, SKETCH_FRAMES, isqrt(self.tokens), colour=True)
        self.midway = MidwayHeads(model.decoder.config.hidden_size, colour=True, several=True)
        self.street, self.prompt = street, prompt
        self.every = np.arange(len(street))
        self.busy = np.concatenate([self.every, np.flatnonzero(street.truth[:, 1, 0] >= 0)])

    def draw(self, rng: np.random.Generator, size: int, whole: bool, vary: bool = True) -> Batch:
        """A sketch is twice as likely to be of a window with two things to tell: the second is the harder one."""
        among, part = (self.every, slice(None)) if whole else (self.busy, SKETCH)
        return draw(self.street, among, rng, size, part, vary, frames=True)

    def look(self, batch: Batch, whole: bool, rng: np.random.Generator) -> View:
        """A sketch keeps every other frame, and of each the class token and the patches that count, where they were."""
        size, frames = batch.images.shape[:2]
        states = self.tower(batch.images.flatten(0, 1), self.tower.config.num_hidden_layers - 1)[-1]
        each = states.reshape(size, frames, *states.shape[1:])
        places = self.heads.places.expand(size, frames, -1, -1)
        if whole:
            seen, looked_at, kept = batch.seen[:, SKETCH], each[:, SKETCH], None
        else:
            seen, looked_at = batch.seen, each
            chosen = _patches_that_count(self.heads.places, seen, rng)  # [B, t, k]
            places = places.gather(2, chosen[..., None].expand(-1, -1, -1, 2))
            chosen = functional.pad(1 + chosen, (1, 0))  # the class token comes first
            each = each.gather(2, chosen[..., None].expand(-1, -1, -1, each.shape[-1]))
            first = torch.arange(FRAMES, device=chosen.device)[SKETCH] * self.tokens
            kept = (first[:, None] + chosen).flatten(1)
        visual = self.vision.multi_modal_projector(each.flatten(1, 2))
        rows = torch.arange(frames * each.shape[2]).reshape(frames, -1)[:, 1:]
        return View(looked_at[:, :, 1:], looked_at[:, :, 0], seen, visual, rows, places, batch.seen, kept)


def _patches_that_count(places: Tensor, seen: Tensor, rng: np.random.Generator) -> Tensor:
    """Patches [B, t, k] of each image: those that show an object, then others, as drawn; in their own order."""
    covered = owners(places, seen.flatten(0, 1))[0].reshape(*seen.shape[:2], -1)
    order = torch.from_numpy(rng.random(covered.shape, np.float32)).to(seen.device) + covered
    return order.topk(SKETCH_PATCHES).indices.sort().values


class DrafterStudent:
    """EventGPT on event frames; always whole, its prompt is short."""

    def __init__(self, model: EventGPT, street: Street, prompt: Prompt) -> None:
        self.vision, self.decoder = model.vision, model.decoder
        self.tower = model.vision.visual_tower
        width = model.decoder.config.hidden_size
        self.heads = SightHeads(width, width, EVENT_FRAMES, isqrt(self.tower.config.tokens), colour=False)
        self.midway = MidwayHeads(width, colour=False, several=False)
        self.street, self.prompt, self.every = street, prompt, np.arange(len(street))

    def draw(self, rng: np.random.Generator, size: int, whole: bool, vary: bool = True) -> Batch:
        return draw(self.street, self.every, rng, size, slice(None), vary, frames=False)

    def look(self, batch: Batch, whole: bool, rng: np.random.Generator) -> View:
        features = self.vision.features(batch.images.flatten(0, 1))
        features = features.reshape(*batch.images.shape[:2], *features.shape[1:])
        visual = self.vision.pool(features)
        # A pooled patch is a mean over the images; it is told of the last.
        places = self.heads.places.expand(len(features), 1, -1, -1)
        rows = torch.arange(visual.shape[1])[None, -places.shape[2] :]
        # The temporal tokens are means over positions, so that is what the heads read and what learns to tell places.
        return View(features[:, :, 1:], features.mean(2), batch.seen, visual, rows, places, batch.seen[:, -1:])


def device_of(student: Student) -> torch.device:
    """Where it learns."""
    return student.decoder.lm_head.weight.device


def sight_loss(student: Student, rng: np.random.Generator, size: int) -> Tensor:
    """Tower warm-up: what, where, and how it moves."""
    batch = student.draw(rng, size, whole=False).at(device_of(student))
    view = student.look(batch, False, rng)
    return student.heads.loss(view.patches, view.features, view.seen, batch.labels)


def text_loss(student: Student, street: Street, tokenizer: Tokenizer, rng: np.random.Generator, size: int) -> Tensor:
    """The decoder learns to speak before it sees."""
    device = device_of(student)
    texts = [encoded(tokenizer, caption_of(row)) for row in street.truth[rng.integers(len(street), size=size)]]
    inputs, labels = (part.to(device) for part in padded(texts, tokenizer.eos_id))
    tail = student.decoder.embed(torch.tensor(student.prompt.tail_ids, device=device)).expand(size, -1, -1)
    positions = torch.arange(len(student.prompt) - tail.shape[1], len(student.prompt), device=device)
    return caption_loss(caption_pass(student.decoder, tail, positions[None], inputs)[0], labels)


def speech_loss(
    student: Student,
    tokenizer: Tokenizer,
    rng: np.random.Generator,
    size: int,
    whole: bool,
    said: Sequence[Sequence[int]] | None = None,
) -> Tensor:
    """Captions from what is seen: the true ones, or those that were `said` of each window (token ids, [W])."""
    batch = student.draw(rng, size, whole, vary=said is None).at(device_of(student))
    view = student.look(batch, whole, rng)
    if said is None:
        texts: list[Sequence[int]] = [encoded(tokenizer, caption_of(row)) for row in batch.truth]
    else:
        texts = [said[i] for i in batch.drawn.tolist()]
    inputs, labels = (part.to(batch.images.device) for part in padded(texts, tokenizer.eos_id))
    before, positions = prefix(student.decoder, student.prompt, view.visual, view.kept)
    logits, midway = caption_pass(student.decoder, before, positions, inputs)
    patches = midway[:, len(student.prompt.head_ids) + view.rows]
    thought = student.midway.loss(patches, view.places, midway[:, -1], view.shown, batch.labels)
    sight = student.heads.loss(view.patches, view.features, view.seen, batch.labels)
    return caption_loss(logits, labels) + SIGHT_WEIGHT * sight + MIDWAY_WEIGHT * thought
