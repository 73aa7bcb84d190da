"""How good the pair is: attributes right in its captions, and how well the drafter agrees with the target."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.demo.data import Street, pixels_of, scene_truth
from models.demo.speech import IGNORED, caption_pass, greedy, padded, prefix
from models.demo.world.scoring import Score
from models.eventgpt import EventGPT
from models.llama import LlamaDecoder
from models.prompts import Prompt
from models.tokenizer import Tokenizer
from models.video_llava import VideoLlava

BATCH = 16


def attributes_right(
    texts: Sequence[str], truths: Sequence[NDArray[np.int8]], among: Sequence[str] | None = None
) -> dict[str, float]:
    """Share of true attributes (`among` them; None: all) that the captions state, by attribute and over `all`.

    Object by object, in order.
    """
    score = Score()
    for text, truth in zip(texts, truths, strict=True):
        score.add(text, scene_truth(truth))
    by_attribute = {name: share for name, share in score.by_attribute().items() if among is None or name in among}
    return by_attribute | {"all": score.share(among) or 0.0}


def _pixels(squares: NDArray[np.uint8], decoder: LlamaDecoder) -> Tensor:
    """Stored squares [B, t, S, S, 3] as pixels [B · t, 3, S, S], where the model is."""
    return torch.from_numpy(pixels_of(squares.reshape(-1, *squares.shape[2:]))).to(decoder.lm_head.weight.device)


@torch.no_grad()
def target_prefix(model: VideoLlava, prompt: Prompt, street: Street, windows: NDArray[np.int64]) -> Tensor:
    """The target's prefill rows for windows of a street, [B, P, D]."""
    frames = street.images[windows]
    visual = model.vision(_pixels(frames, model.decoder)).reshape(len(windows), prompt.num_visual, -1)
    return prefix(model.decoder, prompt, visual)[0]


@torch.no_grad()
def drafter_prefix(model: EventGPT, prompt: Prompt, street: Street, windows: NDArray[np.int64]) -> Tensor:
    """The drafter's prefill rows for windows of a street with events, [B, P, D]."""
    events = street.images[windows]
    features = model.vision.features(_pixels(events, model.decoder))
    visual = model.vision.pool(features.reshape(len(windows), -1, *features.shape[1:]))
    return prefix(model.decoder, prompt, visual)[0]


def target_captions(
    model: VideoLlava, prompt: Prompt, street: Street, windows: NDArray[np.int64], eos: int
) -> list[list[int]]:
    """The target's own greedy captions, token ids without EOS."""
    return [
        ids
        for part in np.split(windows, range(BATCH, len(windows), BATCH))
        for ids in greedy(model.decoder, target_prefix(model, prompt, street, part), eos)
    ]


def drafter_captions(
    model: EventGPT, prompt: Prompt, street: Street, windows: NDArray[np.int64], eos: int
) -> list[list[int]]:
    """The drafter's own greedy captions, token ids without EOS."""
    return [
        ids
        for part in np.split(windows, range(BATCH, len(windows), BATCH))
        for ids in greedy(model.decoder, drafter_prefix(model, prompt, street, part), eos)
    ]


@torch.no_grad()
def agreement(
    drafter: EventGPT,
    prompt: Prompt,
    street: Street,
    windows: NDArray[np.int64],
    said: Sequence[Sequence[int]],
    tokenizer: Tokenizer,
) -> tuple[float, float]:
    """α: the share of the target's tokens that the drafter would propose in its place; all tokens, content words."""
    right = np.zeros(2)
    asked = np.zeros(2)
    for part in np.split(np.arange(len(windows)), range(BATCH, len(windows), BATCH)):
        # a caption cut at the length limit has no end; a target id beyond the drafter's vocabulary has no embedding
        texts = [[i if i < tokenizer.size else 0 for i in said[n]] for n in part.tolist()]
        inputs, labels = padded(texts, tokenizer.eos_id)
        before = drafter_prefix(drafter, prompt, street, windows[part])
        places = torch.arange(before.shape[1], device=before.device)
        logits = caption_pass(drafter.decoder, before, places[None], inputs.to(before.device))[0]
        proposed = logits.argmax(-1).cpu().numpy()
        wanted = labels.numpy()
        for i, among in enumerate((wanted != IGNORED, (wanted != IGNORED) & tokenizer.content[wanted])):
            right[i] += (proposed == wanted)[among].sum()
            asked[i] += among.sum()
    share = right / np.maximum(asked, 1)
    return float(share[0]), float(share[1])
