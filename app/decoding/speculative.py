"""Speculative decoding (Leviathan et al., 2023; Chen et al., 2023) with an adaptive draft length and a guard."""

from __future__ import annotations

from app.decoding.autoregressive import decode_alone
from app.decoding.engine import Engine, Job, Strategy
from app.decoding.transcript import Transcript


class Speculative(Strategy):
    """Both prefills, then: draft γ tokens, verify them in one pass of the target, keep what it would have said."""

    name = "speculative"

    def run(self, job: Job) -> tuple[Transcript, str | None]:
        engine = self.engine
        transcript = engine.transcript()
        engine.begin_target(job)
        engine.target_pass("prefill", (), transcript, job)
        drafted = engine.may_draft and engine.guard.use_speculation()
        if drafted:
            with engine.drafter.failing_softly():
                engine.begin_drafter(job)
            decode_speculatively(engine, transcript, job)
        else:
            decode_alone(engine, transcript, job)
        engine.finish(transcript, drafted=drafted)
        return transcript, None


def decode_speculatively(engine: Engine, transcript: Transcript, job: Job) -> None:
    """The rest of the caption: drafts as long as they pay, the target alone where they do not."""
    while not transcript.finish_reason:
        began_ns = engine.clock()
        drafts = fresh_drafts(engine, transcript, job)
        engine.target_pass("verify" if drafts else "decode", drafts, transcript, job)
        engine.guard.end_round(len(drafts), len(drafts), (engine.clock() - began_ns) / 1e6)


def fresh_drafts(engine: Engine, transcript: Transcript, job: Job) -> list[int]:
    """The drafter's proposal behind the verified text: γ tokens, none where they do not pay."""
    wanted, drafter, drafts = engine.settings.draft_tokens, engine.drafter, list[int]()
    if wanted is None:
        wanted = engine.guard.draft_length()
    if limit := engine.draft_limit(wanted, transcript):
        with drafter.failing_softly():
            drafter.synchronise(transcript.tokens)
            drafter.draft(drafts, limit, engine.guard.worth_paid, job.recorder)
    return drafts
