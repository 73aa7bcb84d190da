"""Running statistics over captions, for the table that ends a demo or a replay. Memory is bounded."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from app.records import Caption, Dropped
from app.telemetry.device_spans import device_overlap_ms
from app.telemetry.latency import LATENCY_KEYS, latency_ms
from app.telemetry.spans import overlap_ms

REMEMBERED = 10_000  # captions a percentile looks back over


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Milliseconds of one stage over the remembered captions in which it ran."""

    p50: float
    p95: float
    count: int


@dataclass(frozen=True, slots=True)
class Report:
    """What the table shows; a rate is None where nothing was tried."""

    captions: int
    tokens: int
    dropped: dict[str, int]  # by reason; what a failure said is cut off: "failed: …" counts as "failed"
    lost: dict[str, int]  # what else was dropped, by name; only what is not zero
    latency_ms: dict[str, Percentiles]  # keys of app.telemetry.latency.LATENCY_KEYS that ran, in that order
    overlap_ms: Percentiles | None
    alpha: float | None
    alpha_content: float | None
    draft_acceptance_rate: float | None
    mean_acceptance_length: float | None
    hidden_tokens_mean: float | None
    accepted_hidden_tokens_mean: float | None


class Summary:
    """Add every caption and every dropped window; ask for a report at any time."""

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self._latencies: dict[str, deque[float]] = {key: deque(maxlen=remembered) for key in LATENCY_KEYS}
        self._overlaps: deque[float] = deque(maxlen=remembered)
        self._dropped: Counter[str] = Counter()
        self._lost: Counter[str] = Counter()
        self._sums: Counter[str] = Counter()

    def add(self, caption: Caption) -> None:
        for key, value in latency_ms(caption).items():
            if value is not None:
                self._latencies[key].append(value)
        on_gpu = device_overlap_ms(caption.spans)
        self._overlaps.append(overlap_ms(list(caption.spans)) if on_gpu is None else on_gpu)
        self._sums["captions"] += 1
        for name in (
            "tokens",
            "num_drafts",
            "num_draft_tokens",
            "num_accepted_draft_tokens",
            "hidden_tokens",
            "accepted_hidden_tokens",
            "alpha_trials",
            "alpha_hits",
            "content_trials",
            "content_hits",
        ):
            self._sums[name] += getattr(caption.stats, name)

    def drop(self, dropped: Dropped) -> None:
        self._dropped[dropped.reason.partition(":")[0]] += 1

    def lose(self, counts: Mapping[str, int]) -> None:
        """Count what is not a window: events, frames, messages."""
        self._lost.update(counts)

    def report(self) -> Report:
        sums = self._sums
        acceptance = _ratio(sums["num_accepted_draft_tokens"], sums["num_drafts"])
        return Report(
            captions=sums["captions"],
            tokens=sums["tokens"],
            dropped=dict(self._dropped),
            lost={name: count for name, count in self._lost.items() if count},
            latency_ms={key: _percentiles(values) for key, values in self._latencies.items() if values},
            overlap_ms=_percentiles(self._overlaps) if self._overlaps else None,
            alpha=_ratio(sums["alpha_hits"], sums["alpha_trials"]),
            alpha_content=_ratio(sums["content_hits"], sums["content_trials"]),
            draft_acceptance_rate=_ratio(sums["num_accepted_draft_tokens"], sums["num_draft_tokens"]),
            mean_acceptance_length=None if acceptance is None else 1 + acceptance,
            hidden_tokens_mean=_ratio(sums["hidden_tokens"], sums["captions"]),
            accepted_hidden_tokens_mean=_ratio(sums["accepted_hidden_tokens"], sums["captions"]),
        )


def _percentiles(values: deque[float]) -> Percentiles:
    p50, p95 = np.percentile(np.asarray(values, dtype=np.float64), [50, 95])
    return Percentiles(float(p50), float(p95), len(values))


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
