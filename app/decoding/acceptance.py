"""Verification of a chain: which drafted tokens are what the target itself would have said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.runtimes.contract import Floats


@dataclass(frozen=True, slots=True)
class Verdict:
    """`accepted` leading drafts stand; `bonus` is the target's own token after them; the figures belong to both."""

    accepted: int
    bonus: int
    logprobs: tuple[float, ...]  # of the accepted tokens and the bonus token, under the target
    gaps: tuple[float, ...]  # top-1 minus top-2 logit at each of them: how near a tie was


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
    used = logits[: accepted + 1]
    top = used.max(axis=-1)
    # The runner-up costs a partition over V, one row at a time: cheaper than sorting, and the row count is small.
    second = np.partition(used, -2, axis=-1)[:, -2]
    total = np.log(np.exp(used - top[:, None]).sum(axis=-1))
    return Verdict(accepted, int(picks[accepted]), tuple((-total).tolist()), tuple((top - second).tolist()))
