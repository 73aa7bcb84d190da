"""Verification of a chain: which drafted tokens are what the target itself would have said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.runtimes.contract import Floats


@dataclass(frozen=True, slots=True)
class Verdict:
    """`accepted` leading drafts stand; `bonus` is the target's own token after them."""

    accepted: int
    bonus: int
    logits: Floats  # [accepted + 1, V]: what decided on each of them


def verify_greedy(drafts: Sequence[int], logits: Floats) -> Verdict:
    """Greedy acceptance (Leviathan et al., 2023, temperature 0): the longest prefix that the target would pick itself.

    logits [1 + len(drafts), V]: row i is the target's distribution for draft i, the last row for the bonus token.
    """
    if len(logits) != len(drafts) + 1:
        raise ValueError(f"{len(drafts)} drafts need {len(drafts) + 1} rows of logits, got {len(logits)}")
    picks = logits.argmax(axis=-1)
    accepted = 0
    while accepted < len(drafts) and drafts[accepted] == picks[accepted]:
        accepted += 1
    return Verdict(accepted, int(picks[accepted]), logits[: accepted + 1])


def top_logprobs(logits: Floats) -> Floats:
    """Log-probability [R] of the most likely token of each row [R, V]."""
    top = logits.max(axis=-1, keepdims=True)
    return np.asarray(-np.log(np.exp(logits - top).sum(axis=-1)))


def top_gaps(logits: Floats) -> Floats:
    """Top-1 minus top-2 logit [R] of each row [R, V]: how near a tie the choice was."""
    best = np.partition(logits, -2, axis=-1)
    return np.asarray(best[:, -1] - best[:, -2])
