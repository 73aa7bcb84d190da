import random

import pytest

from app.telemetry.spans import Span, SpanRecorder, overlap_ms


def lane(name: str, rng: random.Random) -> list[Span]:
    """Spans one after the other, with gaps or none."""
    edges = sorted(rng.sample(range(400), 24))
    return [Span("x", name, a * 1_000_000, b * 1_000_000) for a, b in zip(edges[::2], edges[1::2], strict=True)]


@pytest.mark.parametrize("seed", range(20))
def test_overlap_is_the_time_both_ran(seed: int) -> None:
    rng = random.Random(seed)
    spans = lane("drafter", rng) + lane("target", rng) + lane("host", rng)
    rng.shuffle(spans)
    busy = {
        name: {ms for s in spans if s.lane == name for ms in range(s.start_ns // 1_000_000, s.end_ns // 1_000_000)}
        for name in ("drafter", "target")
    }
    assert overlap_ms(spans) == len(busy["drafter"] & busy["target"])


def test_no_spans_no_overlap() -> None:
    assert overlap_ms([]) == 0


def test_a_span_is_recorded_when_its_stage_fails() -> None:
    recorder = SpanRecorder()
    with pytest.raises(ValueError, match="boom"), recorder.span("decode", "target", tokens=1):
        raise ValueError("boom")
    (span,) = recorder.spans
    assert (span.name, span.lane, span.detail) == ("decode", "target", {"tokens": 1})
    assert span.end_ns >= span.start_ns
