"""AMUSD: Asynchronous Multi-Device Speculative Decoding (McDanel, 2024, arXiv 2410.17375).

    draft loop (device A):   rollback requested ? crop to where it parts from the verified text, go on, acknowledge
                                                : draft one token
    verify loop (device B):  the draft is longer than the verified text ? feed it, accept the match and one token more
                             they part ? raise a rollback request

Neither loop waits for the other: the draft loop never, the verify loop only while there is nothing to verify. As in the
paper decoding is greedy, or sampling with the same noise on both sides.
"""

from __future__ import annotations

from app.decoding.draft_loop import DraftLoop
from app.decoding.engine import Job
from app.decoding.parallel import ParallelStrategy
from app.decoding.transcript import Transcript


class Amusd(ParallelStrategy):
    """Two free-running loops, coupled by the draft one way and rollback requests the other."""

    name = "amusd"

    def decode(self, transcript: Transcript, job: Job) -> None:
        engine = self.engine
        with DraftLoop(engine, job, length=engine.settings.max_new_tokens) as draft_loop:
            engine.begin_target(job)
            engine.target_pass("prefill", (), transcript, job)
            draft_loop.end_prefill()
            draft_loop.count_foreseen((), transcript)
            while not transcript.finish_reason:
                verified = list(transcript.tokens)
                draft_loop.roll_back(verified)
                draft_loop.wait(len(verified) + 1)
                drafts = draft_loop.drafts(verified)
                drafts = drafts[: engine.draft_limit(engine.settings.draft_tokens or len(drafts), transcript)]
                hidden = draft_loop.hidden(verified)
                engine.target_pass("verify" if drafts else "decode", drafts, transcript, job, hidden=hidden)
                draft_loop.count_foreseen(verified + drafts, transcript)
