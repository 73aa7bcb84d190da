"""The decode phase by whatever is measured to be cheapest: the drafter, the caption history, both, or neither."""

from __future__ import annotations

from collections.abc import Callable

from app.decoding.costs import CERTAIN, MAX_DRAFT, Curve
from app.decoding.engine import Engine, Job
from app.decoding.sources import HISTORY, Proposal, merge
from app.decoding.speculative import fresh_drafts
from app.decoding.transcript import Transcript
from app.decoding.tree import TokenTree


def decode_by_measure(engine: Engine, transcript: Transcript, job: Job, *, drafter: bool) -> None:
    """The rest of the caption. `drafter`: the event drafter has its prompt, and may be asked."""
    while not transcript.finish_reason:
        began_ns = engine.clock()
        proposals = known(engine, transcript)
        drafts = list[int]()
        if drafter and not (proposals and _history_is_cheaper(engine, len(proposals[0].tokens))):
            drafts = fresh_drafts(engine, transcript, job)
        count = len(drafts)
        if not proposals:
            engine.target_pass("verify" if drafts else "decode", drafts, transcript, job)
        else:
            if drafts:
                proposals.insert(0, Proposal("drafter", drafts))
            costs = engine.guard.costs
            tree = merged(engine, proposals, transcript, costs.verify_price, costs.verify_tree_ms)
            count = len(tree)
            engine.tree_pass("verify" if tree else "decode", tree, transcript, job, proposals)
        engine.guard.end_round(count, len(drafts), (engine.clock() - began_ns) / 1e6)


def known(engine: Engine, transcript: Transcript, *, hidden: bool = False) -> list[Proposal]:
    """What the caption history proposes behind the text, no longer than there is room for."""
    if "history" not in engine.settings.sources:
        return []
    wanted = engine.settings.draft_tokens
    room = min(MAX_DRAFT if wanted is None else wanted, transcript.room)
    ways = engine.history.propose(transcript.tokens) if room > 0 else []
    return [Proposal(source, way[:room], room if hidden else 0) for source, way in zip(HISTORY, ways, strict=False)]


def merged(
    engine: Engine,
    proposals: list[Proposal],
    transcript: Transcript,
    price: Callable[[int], float],
    branching_ms: float,
) -> TokenTree:
    """One tree of all proposals, with as many nodes as are worth their rows where the guard may say so.

    A probe, short as it is, takes the drafter at its word.
    """
    guard, first = engine.guard, not transcript.tokens

    def curve(source: str) -> Curve:
        if guard.probing and source == "drafter":
            return CERTAIN
        return guard.acceptance.of(source, first=first).curve

    limit = engine.row_limit(MAX_DRAFT)
    cut = [Proposal(source, tokens[: transcript.room], hidden) for source, tokens, hidden in proposals]
    forced = not guard.enabled or engine.settings.draft_tokens is not None
    branching = branching_ms / guard.costs.target_step.ms
    return merge(cut, curve, (lambda drafts: -1.0) if forced else price, limit, branching)


def _history_is_cheaper(engine: Engine, length: int) -> bool:
    """Is a pass over what the history proposes cheaper a token than one over fresh drafts?"""
    guard = engine.guard
    drafts = guard.draft_length()
    if not drafts:
        return True
    rows = guard.costs.worth_verifying(guard.acceptance.of("history", first=False).curve, length)
    return guard.known_token_ms(rows) <= guard.drafted_token_ms(drafts)
