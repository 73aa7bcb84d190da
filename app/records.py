"""What a captioned window is before it becomes a payload: frozen data for captioner, publishing, demo and bench."""

from __future__ import annotations

from dataclasses import dataclass, field

from app.telemetry.spans import Span
from app.windows import Window


@dataclass(frozen=True, slots=True)
class DecodingStats:
    """Speculative-decoding statistics of one caption, under vLLM's names."""

    strategy: str
    placement: str | None  # lead, serial, overlap; None for strategies that hide nothing
    tokens: int  # generated, end-of-sequence excluded
    num_drafts: int = 0  # verify passes that carried a draft
    num_draft_tokens: int = 0
    num_accepted_draft_tokens: int = 0
    hidden_tokens: int = 0  # drafted before the target's prefill ended
    accepted_hidden_tokens: int = 0
    num_spec_steps: int = 0
    acceptance_histogram: tuple[int, ...] = ()  # [k]: verify passes that accepted k draft tokens
    drafted_per_position: tuple[int, ...] = ()  # [n]: verify passes with a draft longer than n tokens
    alpha_trials: int = 0  # draft tokens that were compared with the target's pick (the first mismatch included)
    alpha_hits: int = 0
    content_trials: int = 0  # the same for content words
    content_hits: int = 0
    streamed_frames: int = 0  # prefilled before the window closed

    @property
    def draft_acceptance_rate(self) -> float | None:
        return self.num_accepted_draft_tokens / self.num_draft_tokens if self.num_draft_tokens else None

    @property
    def acceptance_per_position(self) -> tuple[float, ...]:
        """[n]: of the drafts that had a token n (from 0), the share whose first n + 1 tokens all stood."""
        passed = [sum(self.acceptance_histogram[n + 1 :]) for n in range(len(self.drafted_per_position))]
        return tuple(stood / drafted for stood, drafted in zip(passed, self.drafted_per_position, strict=True))

    @property
    def mean_acceptance_length(self) -> float | None:
        return 1 + self.num_accepted_draft_tokens / self.num_drafts if self.num_drafts else None


@dataclass(frozen=True, slots=True)
class Token:
    """A token for display: its text and where it came from: `accepted` (drafted, verified), `target`, `rejected`."""

    id: int
    text: str
    origin: str


@dataclass(frozen=True, slots=True)
class Caption:
    """A verified caption of one window."""

    window: Window
    text: str
    token_ids: tuple[int, ...]  # what the target said, end-of-sequence excluded
    tokens: tuple[Token, ...]  # in order, rejected drafts between
    finish_reason: str  # "stop" or "length"
    mean_logprob: float
    stats: DecodingStats
    spans: tuple[Span, ...]
    draft_text: str | None  # the draft as first read, unverified
    started_ns: int  # the captioner took the window
    finished_ns: int  # the last token was verified
    prompt: str
    gaps: tuple[float, ...] = ()  # top-1 minus top-2 target logit at each token (end-of-sequence too): how near a tie
    models: dict[str, str | bool] = field(default_factory=dict)  # drafter, target, runtime, demo


@dataclass(frozen=True, slots=True)
class Dropped:
    """A window that was not captioned, and why (`superseded`, `no_frames`, `failed: …`)."""

    window: Window
    reason: str
