"""Whether two models can be a pair: drafts are token ids, so both must mean the same by them."""

from __future__ import annotations

from collections.abc import Iterator

from models.bundle import VisionLanguageModel
from models.errors import ModelError


def check_pair(drafter: VisionLanguageModel, target: VisionLanguageModel) -> None:
    """Refuse two models that do not share their ids: a draft would be noise. Raises ModelError."""
    if drafter.eos_id != target.eos_id:
        raise ModelError(
            f"{drafter.name} ends a text with id {drafter.eos_id}, {target.name} with {target.eos_id}: "
            "the two do not share a vocabulary"
        )
    for token in _sample_ids(min(drafter.vocabulary, target.vocabulary)):
        pieces = drafter.tokenizer.raw_piece(token), target.tokenizer.raw_piece(token)
        if pieces[0] != pieces[1]:
            raise ModelError(
                f"id {token} is {pieces[0]!r} for {drafter.name} and {pieces[1]!r} for {target.name}: "
                "the two do not share a vocabulary"
            )


def _sample_ids(count: int) -> Iterator[int]:
    """Every id of a small vocabulary, some four thousand of a large one."""
    return iter(range(0, count, max(1, count // 4096)))
