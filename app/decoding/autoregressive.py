"""The target alone: the baseline, and what every other strategy must say token for token."""

from __future__ import annotations

from app.decoding.engine import Engine, Job, Strategy
from app.decoding.transcript import Transcript


class Autoregressive(Strategy):
    """Prefill, then one token a forward pass."""

    name = "autoregressive"

    def run(self, job: Job) -> tuple[Transcript, str | None]:
        engine = self.engine
        transcript = engine.transcript()
        engine.begin_target(job)
        engine.target_pass("prefill", (), transcript, job)
        decode_alone(engine, transcript, job)
        return transcript, None


def decode_alone(engine: Engine, transcript: Transcript, job: Job) -> None:
    """The rest of the caption by the target alone."""
    while not transcript.finish_reason:
        engine.target_pass("decode", (), transcript, job)
