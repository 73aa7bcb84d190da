"""Verification: which drafted tokens are what the target itself would have said, in a chain or in a tree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from app.decoding.sampling import Sampler
from app.decoding.tree import ROOT, TokenTree
from models.runtimes.contract import Floats


class Verdict(NamedTuple):
    """`accepted` leading drafts stand; `bonus` is the target's own token after them."""

    accepted: int
    bonus: int
    logits: Floats  # [accepted + 1, V]: what decided on each of them


def verify_chain(drafts: Sequence[int], logits: Floats, sampler: Sampler, place: int = 0) -> Verdict:
    """The longest prefix of `drafts`, from position `place` of the caption on, that the target would pick itself.

    Greedy acceptance (Leviathan et al., 2023, temperature 0), and exact for sampling with the sampler's noise.
    logits [1 + len(drafts), V]: row i is the target's distribution for draft i, the last row for the bonus token.
    """
    if len(logits) != len(drafts) + 1:
        raise ValueError(f"{len(drafts)} drafts need {len(drafts) + 1} rows of logits, got {len(logits)}")
    accepted = 0
    while (pick := sampler.pick(logits[accepted], place + accepted)) in drafts[accepted : accepted + 1]:
        accepted += 1
    return Verdict(accepted, pick, logits[: accepted + 1])


def verify_tree(tree: TokenTree, logits: Floats, sampler: Sampler, place: int = 0) -> tuple[list[int], Verdict]:
    """The same for a tree: the path of accepted nodes, down as long as a child is the target's own pick.

    logits [1 + len(tree), V]: row 0 behind the verified text, row 1 + n behind node n.
    """
    if len(logits) != len(tree) + 1:
        raise ValueError(f"a tree of {len(tree)} needs {len(tree) + 1} rows of logits, got {len(logits)}")
    path: list[int] = []
    node = ROOT
    while (child := tree.child(node, pick := sampler.pick(logits[1 + node], place + len(path)))) is not None:
        path.append(child)
        node = child
    return path, Verdict(len(path), pick, logits[[0, *(1 + n for n in path)]])


def logprobs(logits: Floats, tokens: Sequence[int]) -> Floats:
    """The target's log-probability [R] (temperature 1) of each token, from its row of logits [R, V]."""
    top = logits.max(axis=-1)
    picked = logits[np.arange(len(logits)), np.asarray(tokens, np.int64)]
    return np.asarray(picked - top - np.log(np.exp(logits - top[:, None]).sum(axis=-1)))


def top_gaps(logits: Floats) -> Floats:
    """Top-1 minus top-2 logit [R] of each row [R, V]: how near a tie the choice was."""
    best = np.partition(logits, -2, axis=-1)
    return np.asarray(best[:, -1] - best[:, -2])
