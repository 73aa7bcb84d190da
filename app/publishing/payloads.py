"""Payloads about windows, as plain dicts; every field is described in `schemas/*.json`. Pure functions."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from app.publishing.outbox import Payload, Receipt
from app.records import Caption, Dropped
from app.sensors.contract import Frame
from app.telemetry.device_spans import device_overlap_ms
from app.telemetry.latency import latency_ms
from app.telemetry.spans import Span, overlap_ms
from app.windows import Window


@dataclass(frozen=True, slots=True)
class Clock:
    """The sensor's clock against the wall: wall time = sensor time + offset; None while that is unknown."""

    name: str = "sensor"
    wall_offset_us: int | None = None
    uncertainty_us: int | None = None


@dataclass(frozen=True, slots=True)
class Origin:
    """Whose words these are."""

    node: str
    camera: str
    session: str
    clock: Clock = Clock()
    replay: bool = False

    def caption_id(self, index: int) -> str:
        """One id a window: its draft, caption and telemetry share it."""
        return f"{self.session}-{self.camera}-{index}"


@dataclass(frozen=True, slots=True)
class Position:
    """What a caption knows of those before it."""

    seq: int
    changed: bool
    dropped_since_last: int


class CaptionLog:
    """Counts the captions and drops of one camera."""

    def __init__(self) -> None:
        self._seq = 0
        self._text: str | None = None
        self._dropped = 0

    def caption(self, text: str) -> Position:
        """The position of the next caption; the first one counts as changed."""
        position = Position(self._seq, text != self._text, self._dropped)
        self._seq, self._text, self._dropped = self._seq + 1, text, 0
        return position

    def dropped(self) -> None:
        self._dropped += 1


def caption_payload(caption: Caption, origin: Origin, position: Position) -> Payload:
    """caption/1. `late` is set when it leaves the outbox."""
    models = caption.models
    return {
        **_head("caption/1", origin, caption.window),
        "seq": position.seq,
        "clock": {
            "name": origin.clock.name,
            "wall_offset_us": origin.clock.wall_offset_us,
            "uncertainty_us": origin.clock.uncertainty_us,
        },
        "text": caption.text,
        "verified": True,
        "finish_reason": caption.finish_reason,
        "mean_logprob": _finite(caption.mean_logprob),
        "changed": position.changed,
        "prompt": caption.prompt,
        "models": {
            "drafter": models.get("drafter"),
            "target": models.get("target"),
            "runtime": models.get("runtime"),
            "demo": bool(models.get("demo", False)),
        },
        "decoding": _decoding(caption),
        "latency_ms": latency_ms(caption),
        "late": False,
        "dropped_since_last": position.dropped_since_last,
    }


def draft_payload(window: Window, text: str, origin: Origin) -> Payload:
    """draft/1: what the drafter said, before the target has seen it."""
    return {**_head("draft/1", origin, window), "text": text, "verified": False}


def telemetry_payload(record: Caption | Dropped, origin: Origin) -> Payload:
    """telemetry/1: every frame and every stage of one window, in ms after the window closed (before it: negative)."""
    window, zero_ns = record.window, record.window.closed_ns
    captioned = isinstance(record, Caption)
    spans: Sequence[Span] = record.spans if isinstance(record, Caption) else ()
    reason = record.reason if isinstance(record, Dropped) else None
    return {
        **_head("telemetry/1", origin, window),
        "outcome": "captioned" if captioned else "dropped",
        "reason": reason,
        "origin": {"instant": "window_closed", "monotonic_ns": zero_ns},
        "frames": _frames(window, spans, reason),
        "spans": [_span(s, zero_ns) for s in spans],
        "overlap_ms": round(overlap_ms(list(spans)), 3),
        "gpu_overlap_ms": None if (both := device_overlap_ms(spans)) is None else round(both, 3),
        "decoding": _decoding(record) if isinstance(record, Caption) else None,
        "publish": None,  # the receipt of its caption, filled in when the record leaves the outbox
    }


def publish_record(receipt: Receipt, zero_ns: int) -> Payload:
    """`publish` of a telemetry record: what became of the caption, ms after the window closed."""
    return {
        "queued_ms": _after(receipt.queued_ns, zero_ns),
        "sent_ms": _after(receipt.sent_ns, zero_ns),
        "acked_ms": _after(receipt.acked_ns, zero_ns),
        "attempts": receipt.attempts,
        "dropped": receipt.dropped,
    }


def window_payload(window: Window) -> Payload:
    """`window` of every payload that is about one."""
    frames = _real_frames(window)
    return {
        "index": window.index,
        "start_us": window.start_us,
        "end_us": window.end_us,
        "events": len(window.events),
        "frames": len(frames),
        "grey_frames": sum(f.grey for f in frames),
        "dropped_events": window.dropped_events,
        "lag_ms": window.lag_ms,
        "notes": list(window.notes),
    }


def wall_us() -> int:
    """Now, in microseconds since the Unix epoch."""
    return time.time_ns() // 1000


def _head(schema: str, origin: Origin, window: Window) -> Payload:
    return {
        "schema": schema,
        "id": origin.caption_id(window.index),
        "node": origin.node,
        "camera": origin.camera,
        "session": origin.session,
        "replay": origin.replay,
        "created_wall_us": wall_us(),
        "window": window_payload(window),
    }


def _decoding(caption: Caption) -> Payload:
    stats = caption.stats
    return {
        "strategy": stats.strategy,
        "placement": stats.placement,
        "num_drafts": stats.num_drafts,
        "num_draft_tokens": stats.num_draft_tokens,
        "num_accepted_draft_tokens": stats.num_accepted_draft_tokens,
        "hidden_tokens": stats.hidden_tokens,
        "accepted_hidden_tokens": stats.accepted_hidden_tokens,
        "streamed_frames": stats.streamed_frames,
        "num_spec_steps": stats.num_spec_steps,
        "mean_acceptance_length": stats.mean_acceptance_length,
        "draft_acceptance_rate": stats.draft_acceptance_rate,
        "acceptance_histogram": list(stats.acceptance_histogram),
        "acceptance_per_position": [round(rate, 4) for rate in stats.acceptance_per_position],
        "tokens": stats.tokens,
    }


def _real_frames(window: Window) -> list[Frame]:
    """The distinct frames of a window in time order, chosen or not."""
    frames = {f.t_us: f for f in (*(w.frame for w in window.frames), *window.unused_frames)}
    return [frames[t_us] for t_us in sorted(frames)]


def _frames(window: Window, spans: Sequence[Span], dropped: str | None) -> list[Payload]:
    places: dict[int, list[int]] = {}
    for place, chosen in enumerate(window.frames):
        places.setdefault(chosen.frame.t_us, []).append(place)
    result: list[Payload] = []
    for frame in _real_frames(window):
        at = places.get(frame.t_us, [])
        used = bool(at) and dropped is None
        result.append(
            {
                "t_us": frame.t_us,
                "arrived_ms": _after(frame.arrived_ns or None, window.closed_ns),
                "grey": frame.grey,
                "used": used,
                "places": at,
                "reason": None if used else dropped or "not_selected",
                "encode": _stage(spans, "encode", at, window.closed_ns) if used else None,
                "prefill": _stage(spans, "prefill", at, window.closed_ns) if used else None,
            }
        )
    return result


def _stage(spans: Sequence[Span], name: str, places: Sequence[int], zero_ns: int) -> Payload | None:
    """From the first to the last target span that worked on a frame.

    A span that says `first_frame` and `end_frame` in its detail worked on the places from the one up to the other; one
    that does not say worked on them all.
    """
    mine = [
        s
        for s in spans
        if s.lane == "target"
        and s.name == name
        and ("first_frame" not in s.detail or any(s.detail["first_frame"] <= p < s.detail["end_frame"] for p in places))  # type: ignore[operator]
    ]
    if not mine:
        return None
    return {
        "start_ms": _after(min(s.start_ns for s in mine), zero_ns),
        "end_ms": _after(max(s.end_ns for s in mine), zero_ns),
    }


def _span(span: Span, zero_ns: int) -> Payload:
    return {
        "name": span.name,
        "lane": span.lane,
        "start_ms": _after(span.start_ns, zero_ns),
        "end_ms": _after(span.end_ns, zero_ns),
        "detail": dict(span.detail),
    }


def _after(instant_ns: int | None, zero_ns: int) -> float | None:
    return None if instant_ns is None else round((instant_ns - zero_ns) / 1e6, 3)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
