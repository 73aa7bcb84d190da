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

from models.demo.data import EVENT_FRAMES, LEFT, RIGHT, Street, caption_of, mirrored, pixels_of
from models.demo.sight import SightHeads
from models.demo.speech import caption_logits, caption_loss, encoded, padded, prefix
from models.eventgpt import EventGPT
from models.llama import LlamaDecoder
from models.prompts import Prompt
from models.tokenizer import Tokenizer
from models.video_llava import FRAMES, VideoLlava

Loss = Callable[[np.random.Generator], Tensor]  # a stage's loss, on a batch drawn from the generator

SIGHT_WEIGHT = 0.5  # of the heads' loss beside the caption's
SKETCH_FRAMES = 4  # the last ones of a window, on which its truth rests
SKETCH_PATCHES = 8


@dataclass(frozen=True)
class Batch:
    """Windows drawn: images [B, t, 3, S, S], seen [B, t, 2, 8], truth [B, 2, 5], their numbers in the street [B]."""

    images: Tensor
    seen: Tensor
    truth: NDArray[np.int8]
    drawn: NDArray[np.int64]

    def at(self, device: torch.device) -> Batch:
        """With its tensors there."""
        return replace(self, images=self.images.to(device), seen=self.seen.to(device))

    @property
    def labels(self) -> Tensor:
        """`truth`, beside the images."""
        return torch.from_numpy(self.truth).to(self.images.device)


def draw(street: Street, rng: np.random.Generator, size: int, last: int, mirror: bool) -> Batch:
    """Random windows with the `last` images of each; with `mirror`, half of them as their mirror images."""
    drawn = rng.integers(len(street), size=size)
    wanted = (rng.random(size) < 0.5) & mirror
    truth, flipped = street.truth[drawn].copy(), np.zeros(size, np.bool_)
    for i in np.flatnonzero(wanted):
        if (other := mirrored(truth[i])) is not None:
            truth[i], flipped[i] = other, True
    squares, seen = street.images[drawn, -last:], street.seen[drawn, -last:].copy()
    squares = np.where(flipped[:, None, None, None, None], squares[..., ::-1, :], squares)
    turned = flipped[:, None, None] & (seen[..., 0] >= 0)
    seen[..., 3] = np.where(turned, 1 - seen[..., 3], seen[..., 3])
    facing = seen[..., 2]
    other_way = np.where(facing == LEFT, RIGHT, np.where(facing == RIGHT, LEFT, facing))
    seen[..., 2] = np.where(turned, other_way, facing)
    pixels = pixels_of(squares.reshape(-1, *squares.shape[2:])).reshape(size, -1, 3, *squares.shape[2:4])
    return Batch(torch.from_numpy(pixels), torch.from_numpy(seen), truth, drawn)


@dataclass(frozen=True)
class View:
    """A batch as a network sees it: what the heads read (patches [B, t, grid², C], features [B, t, D]), the visual
    embeddings [B, n, D], and which visual rows those are (None: all)."""

    patches: Tensor
    features: Tensor
    visual: Tensor
    kept: Tensor | None = None


class Student(Protocol):
    """A network in training, as the losses see it."""

    decoder: LlamaDecoder
    heads: SightHeads
    prompt: Prompt

    def draw(self, rng: np.random.Generator, size: int, whole: bool, mirror: bool = True) -> Batch: ...

    def look(self, batch: Batch, whole: bool, rng: np.random.Generator) -> View: ...


class TargetStudent:
    """Video-LLaVA on RGB frames."""

    def __init__(self, model: VideoLlava, street: Street, prompt: Prompt) -> None:
        self.vision, self.decoder = model.vision, model.decoder
        self.tower = model.vision.video_tower
        self.tokens = self.tower.config.tokens
        width = self.tower.config.hidden_size
        self.heads = SightHeads(width, width, SKETCH_FRAMES, isqrt(self.tokens), colour=True)
        self.street, self.prompt = street, prompt

    def draw(self, rng: np.random.Generator, size: int, whole: bool, mirror: bool = True) -> Batch:
        return draw(self.street, rng, size, FRAMES if whole else SKETCH_FRAMES, mirror)

    def look(self, batch: Batch, whole: bool, rng: np.random.Generator) -> View:
        """A sketch keeps the last frames, and of each the class token and some patches, at their true positions."""
        size, frames = batch.images.shape[:2]
        states = self.tower(batch.images.flatten(0, 1), self.tower.config.num_hidden_layers - 1)[-1]
        each = states.reshape(size, frames, *states.shape[1:])[:, -SKETCH_FRAMES:]
        kept = None
        if not whole:
            patches = 1 + np.sort(rng.permutation(self.tokens - 1)[:SKETCH_PATCHES])
            chosen = torch.from_numpy(np.concatenate([[0], patches]))
            states = states[:, chosen]
            first = torch.arange(FRAMES - frames, FRAMES) * self.tokens
            kept = (first[:, None] + chosen[None]).flatten()
        visual = self.vision.multi_modal_projector(states)
        return View(each[:, :, 1:], each[:, :, 0], visual.reshape(size, -1, visual.shape[-1]), kept)


class DrafterStudent:
    """EventGPT on event frames; always whole, its prompt is short."""

    def __init__(self, model: EventGPT, street: Street, prompt: Prompt) -> None:
        self.vision, self.decoder = model.vision, model.decoder
        self.tower = model.vision.visual_tower
        width = model.decoder.config.hidden_size
        self.heads = SightHeads(width, width, EVENT_FRAMES, isqrt(self.tower.config.tokens), colour=False)
        self.street, self.prompt = street, prompt

    def draw(self, rng: np.random.Generator, size: int, whole: bool, mirror: bool = True) -> Batch:
        return draw(self.street, rng, size, EVENT_FRAMES, mirror)

    def look(self, batch: Batch, whole: bool, rng: np.random.Generator) -> View:
        features = self.vision.features(batch.images.flatten(0, 1))
        features = features.reshape(*batch.images.shape[:2], *features.shape[1:])
        # The temporal tokens are means over positions, so that is what the heads read and what learns to tell places.
        return View(features[:, :, 1:], features.mean(2), self.vision.pool(features))


def device_of(student: Student) -> torch.device:
    """Where it learns."""
    return student.decoder.lm_head.weight.device


def sight_loss(student: Student, rng: np.random.Generator, size: int) -> Tensor:
    """Tower warm-up: what, where, and how it moves."""
    batch = student.draw(rng, size, whole=False).at(device_of(student))
    view = student.look(batch, False, rng)
    return student.heads.loss(view.patches, view.features, batch.seen, batch.labels)


def text_loss(student: Student, street: Street, tokenizer: Tokenizer, rng: np.random.Generator, size: int) -> Tensor:
    """The decoder learns to speak before it sees."""
    device = device_of(student)
    texts = [encoded(tokenizer, caption_of(row)) for row in street.truth[rng.integers(len(street), size=size)]]
    inputs, labels = (part.to(device) for part in padded(texts, tokenizer.eos_id))
    tail = student.decoder.embed(torch.tensor(student.prompt.tail_ids, device=device)).expand(size, -1, -1)
    positions = torch.arange(len(student.prompt) - tail.shape[1], len(student.prompt), device=device)
    return caption_loss(caption_logits(student.decoder, tail, positions, inputs), labels)


def speech_loss(
    student: Student,
    tokenizer: Tokenizer,
    rng: np.random.Generator,
    size: int,
    whole: bool,
    said: Sequence[Sequence[int]] | None = None,
) -> Tensor:
    """Captions from what is seen: the true ones, or those that were `said` of each window (token ids, [W])."""
    batch = student.draw(rng, size, whole, mirror=said is None).at(device_of(student))
    view = student.look(batch, whole, rng)
    if said is None:
        texts: list[Sequence[int]] = [encoded(tokenizer, caption_of(row)) for row in batch.truth]
    else:
        texts = [said[i] for i in batch.drawn.tolist()]
    inputs, labels = (part.to(batch.images.device) for part in padded(texts, tokenizer.eos_id))
    before, positions = prefix(student.decoder, student.prompt, view.visual, view.kept)
    loss = caption_loss(caption_logits(student.decoder, before, positions, inputs), labels)
    seen = batch.seen[:, -view.features.shape[1] :]
    sight = student.heads.loss(view.patches, view.features, seen, batch.labels)
    return loss + SIGHT_WEIGHT * sight
