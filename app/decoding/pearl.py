"""PEARL: Parallel Speculative Decoding with Adaptive Draft Length (Liu et al., 2024, arXiv 2408.11850).

    mode = PRE
    loop: in parallel: D drafts a block B of γ tokens behind seq; T runs (PRE: the last token; POST: the pending block)
      PRE : accept(B[0]) by T's one new distribution ? seq += B, mode = POST : seq += T's token, D rolls back
      POST: n = first rejection in (pending[1:], B[0]); none ? seq += B : cut at n, add T's token, roll both back, PRE

Both models run in every round, so neither waits for long when γ ≈ T_target / T_draft; blocks that keep standing are
verified one after the other, which makes a draft as long as acceptance allows. The first round of T is its prefill: its
logits pre-verify the first draft token for free.
"""

from __future__ import annotations

from app.decoding.draft_loop import DraftLoop
from app.decoding.engine import Job
from app.decoding.parallel import ParallelStrategy, drafts_per_pass
from app.decoding.transcript import Transcript


class Pearl(ParallelStrategy):
    """Pre-verify the first token of a block while it is drafted, post-verify the rest while the next one is."""

    name = "pearl"

    def decode(self, transcript: Transcript, job: Job) -> None:
        engine = self.engine
        gamma = drafts_per_pass(engine)  # γ
        seq: list[int] = []  # the verified tokens, and behind them what is left of the pending block
        with DraftLoop(engine, job, length=gamma) as drafter:
            engine.begin_target(job)
            engine.target_pass("prefill", (), transcript, job)
            drafter.end_prefill()
            while not transcript.finish_reason:
                drafter.wait(len(seq) + gamma)
                drafter.count_foreseen(seq, transcript)
                block = drafter.drafts(seq)[:gamma]
                pending: list[int] = []  # PRE
                if transcript.tokens == seq + block[:1]:  # all that was pending stands, and B[0] with it: POST
                    pending = block[1 : 1 + engine.draft_limit(gamma - 1, transcript)]
                seq = transcript.tokens + pending
                drafter.roll_back(seq)
                drafter.extend(len(seq) + gamma)
                hidden = drafter.hidden(transcript.tokens)
                engine.target_pass("verify" if pending else "decode", pending, transcript, job, hidden=hidden)
            drafter.count_foreseen(seq, transcript)
