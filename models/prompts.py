"""The two models' prompts: text ids before and after the place where the visual tokens stand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.errors import ModelError
from models.tokenizer import Tokenizer

QUESTION = "What happens around the robot?"

SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
EVENTGPT = SYSTEM + " USER: <ev_start><event><ev_end>\n{question} ASSISTANT:"
VIDEO_LLAVA = "USER: <video>\n{question} ASSISTANT:"
VIDEO_LLAVA_ORIGINAL = SYSTEM + " USER: " + "<image>" * 8 + "\n{question} ASSISTANT:"


@dataclass(frozen=True, slots=True)
class Prompt:
    """Ids before the visual tokens (BOS first), how many visual tokens there are, and the ids after them."""

    head_ids: tuple[int, ...]
    num_visual: int
    tail_ids: tuple[int, ...]

    def __len__(self) -> int:
        """Rows of the prefill."""
        return len(self.head_ids) + self.num_visual + len(self.tail_ids)

    @property
    def head(self) -> NDArray[np.int64]:
        return np.array(self.head_ids, np.int64)

    @property
    def tail(self) -> NDArray[np.int64]:
        return np.array(self.tail_ids, np.int64)


def eventgpt_prompt(tokenizer: Tokenizer, question: str, num_visual: int) -> Prompt:
    """EventGPT's official prompt, split on `<event>`; each chunk is tokenised by itself and one BOS is kept.

    Raises ModelError when the question holds the placeholder (the official code raises, too).
    """
    head, tail = _split(EVENTGPT, "<event>", question)
    return Prompt((tokenizer.bos_id, *tokenizer.encode(head)), num_visual, tokenizer.encode(tail))


def video_llava_prompt(tokenizer: Tokenizer, question: str, num_visual: int) -> Prompt:
    """The Hugging Face port's prompt; what follows `<video>` continues the sentence, so it gets no leading space."""
    head, tail = _split(VIDEO_LLAVA, "<video>", question)
    return Prompt((tokenizer.bos_id, *tokenizer.encode(head)), num_visual, tokenizer.encode(tail, continues=True))


def video_llava_original_prompt(tokenizer: Tokenizer, question: str, num_visual: int) -> Prompt:
    """The original's prompt: eight `<image>` in a row, one a frame, nothing between them; chunks as EventGPT's."""
    head, *_, tail = _split(VIDEO_LLAVA_ORIGINAL, "<image>", question)
    return Prompt((tokenizer.bos_id, *tokenizer.encode(head)), num_visual, tokenizer.encode(tail))


PROMPTS: dict[str, Callable[[Tokenizer, str, int], Prompt]] = {  # by the model_type of config.json
    "EventChat_llama": eventgpt_prompt,
    "video_llava": video_llava_prompt,
    "llava": video_llava_original_prompt,
}


def check_prompt(
    prompt: Prompt, tokenizer: Tokenizer, vocabulary: int, config: Mapping[str, Any], where: str | Path
) -> None:
    """Raises ModelError unless each id of a prompt, BOS and EOS have an embedding, and BOS and EOS are config.json's.

    A tokenizer may know fewer ids than the vocabulary has rows, and more than it uses.
    """
    remedy = "the tokenizer belongs to another checkpoint; copy this one's"
    for token_id in (tokenizer.bos_id, tokenizer.eos_id, *prompt.head_ids, *prompt.tail_ids):
        if not 0 <= token_id < vocabulary:
            raise ModelError(f"{where}: the tokenizer gives id {token_id}, the vocabulary is {vocabulary:,}: {remedy}")
    text = config.get("text_config")
    given = {**config, **text} if isinstance(text, dict) else config
    for key, ours in (("bos_token_id", tokenizer.bos_id), ("eos_token_id", tokenizer.eos_id)):
        wanted = given.get(key)
        if wanted is not None and ours not in (wanted if isinstance(wanted, list) else [wanted]):
            raise ModelError(f"{where}: config.json's {key} is {wanted!r}, the tokenizer's {ours}: {remedy}")


def _split(template: str, placeholder: str, question: str) -> list[str]:
    if placeholder in question:
        raise ModelError(
            f"decoding.question: it must not contain {placeholder}, the place of the visual tokens; ask without it"
        )
    return template.format(question=question).split(placeholder)
