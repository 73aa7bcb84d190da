import dataclasses

import pytest

from app.records import DecodingStats
from app.telemetry.latency import LATENCY_KEYS, latency_ms
from app.telemetry.spans import SpanRecorder
from app.telemetry.summary import Summary
from tests.app.publishing.samples import MS, make_caption, make_dropped


def test_report() -> None:
    summary = Summary()
    for i in range(100):
        caption = make_caption(i, closed_ns=1_000 * MS)
        summary.add(dataclasses.replace(caption, finished_ns=caption.window.closed_ns + (i + 1) * MS))
    summary.drop(make_dropped(reason="superseded"))
    summary.drop(make_dropped(reason="failed: one"))
    summary.drop(make_dropped(reason="failed: two"))
    report = summary.report()
    assert report.captions == 100
    assert report.dropped == {"superseded": 1, "failed": 2}
    assert list(report.latency_ms) == list(LATENCY_KEYS)
    total = report.latency_ms["sensor_to_caption"]
    assert (total.p50, total.p95, total.count) == (pytest.approx(50.5), pytest.approx(95.05), 100)
    assert report.overlap_ms is not None
    assert report.overlap_ms.p50 == pytest.approx(15)
    assert (report.alpha, report.alpha_content) == (0.75, 0.5)
    assert (report.draft_acceptance_rate, report.mean_acceptance_length) == (0.5, 4)
    assert (report.hidden_tokens_mean, report.accepted_hidden_tokens_mean) == (6, 3)


def test_an_empty_report_has_no_rates() -> None:
    report = Summary().report()
    assert (report.captions, report.latency_ms, report.alpha, report.mean_acceptance_length) == (0, {}, None, None)


def test_the_target_alone() -> None:
    summary = Summary()
    stats = DecodingStats("autoregressive", None, tokens=8)
    caption = make_caption()
    spans = tuple(s for s in caption.spans if s.lane == "target" and s.name != "verify")
    summary.add(dataclasses.replace(caption, stats=stats, spans=spans))
    report = summary.report()
    assert "drafter_decode" not in report.latency_ms
    assert "verify" not in report.latency_ms
    assert report.draft_acceptance_rate is None


def test_memory_is_bounded() -> None:
    summary = Summary(remembered=10)
    for _ in range(50):
        summary.add(make_caption())
    report = summary.report()
    assert report.captions == 50
    assert report.latency_ms["total"].count == 10


def test_spans_recorded_make_latencies() -> None:
    recorder = SpanRecorder()
    with recorder.span("prefill", "target", tokens=3):
        pass
    with recorder.span("prefill", "target", tokens=4):
        pass
    caption = dataclasses.replace(make_caption(), spans=tuple(recorder.spans))
    assert latency_ms(caption)["target_prefill"] == pytest.approx(sum(span.ms for span in recorder.spans), abs=1e-3)
