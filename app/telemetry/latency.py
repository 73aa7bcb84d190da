"""Where the milliseconds of one caption went, from its spans."""

from __future__ import annotations

from app.records import Caption

# key of `latency_ms` -> (span name, lane); a stage that ran in several spans (prefill chunks) is their sum
STAGES: dict[str, tuple[str, str]] = {
    "preprocess": ("preprocess", "host"),
    "drafter_encode": ("encode", "drafter"),
    "drafter_prefill": ("prefill", "drafter"),
    "drafter_decode": ("decode", "drafter"),
    "target_encode": ("encode", "target"),
    "target_prefill": ("prefill", "target"),
    "verify": ("verify", "target"),
    "target_decode": ("decode", "target"),
}
LATENCY_KEYS = ("queue", *STAGES, "total", "sensor_to_caption", "last_frame_to_caption")


def latency_ms(caption: Caption) -> dict[str, float | None]:
    """Milliseconds by stage; None for a stage that did not run.

    `queue` is from the window's closing to the captioner taking it; `total` and `sensor_to_caption` to the last
    verified token (what a live window waited before it closed is its `lag_ms`); `last_frame_to_caption` counts from the
    arrival of the last frame that the target saw.
    """
    closed_ns = caption.window.closed_ns
    result: dict[str, float | None] = {"queue": _ms(caption.started_ns - closed_ns)}
    for key, (name, lane) in STAGES.items():
        durations = [s.end_ns - s.start_ns for s in caption.spans if s.name == name and s.lane == lane]
        result[key] = _ms(sum(durations)) if durations else None
    result["total"] = result["sensor_to_caption"] = _ms(caption.finished_ns - closed_ns)
    arrived_ns = max((chosen.frame.arrived_ns for chosen in caption.window.frames), default=0)
    result["last_frame_to_caption"] = _ms(caption.finished_ns - arrived_ns) if arrived_ns else None
    return result


def _ms(duration_ns: int) -> float:
    return round(duration_ns / 1e6, 3)
