"""Device times of a caption: each pass beside its stage, and how long both models were really busy at once."""

from app.telemetry.device_spans import device_overlap_ms, device_spans
from app.telemetry.spans import Span

MS = 1_000_000
HOST = [
    Span("encode", "target", 10 * MS, 20 * MS),
    Span("prefill", "target", 20 * MS, 60 * MS),
    Span("decode", "drafter", 12 * MS, 30 * MS),  # it waited for its turn
]


def test_each_pass_takes_the_name_of_the_stage_that_holds_it() -> None:
    busy = [(11 * MS, 19 * MS), (21 * MS, 40 * MS), (41 * MS, 59 * MS)]
    assert device_spans(HOST, "target", busy) == [
        Span("encode", "target gpu", 11 * MS, 19 * MS),
        Span("prefill", "target gpu", 21 * MS, 40 * MS),
        Span("prefill", "target gpu", 41 * MS, 59 * MS),
    ]


def test_what_belongs_to_another_window_is_left_to_it() -> None:
    assert device_spans(HOST, "target", [(1 * MS, 9 * MS), (61 * MS, 70 * MS)]) == []
    assert device_spans(HOST, "host", [(11 * MS, 19 * MS)]) == []
    before = [(n * MS // 1000, n * MS // 1000 + 900) for n in range(9000)]
    assert device_spans(HOST, "target", [*before, (11 * MS, 19 * MS)]) == device_spans(
        HOST, "target", [(11 * MS, 19 * MS)]
    )


def test_the_overlap_is_the_devices_not_the_hosts() -> None:
    spans = [
        *HOST,
        *device_spans(HOST, "target", [(11 * MS, 19 * MS), (21 * MS, 59 * MS)]),
        *device_spans(HOST, "drafter", [(17 * MS, 25 * MS)]),
    ]
    assert device_overlap_ms(spans) == 2 + 4
    assert device_overlap_ms(HOST) is None
