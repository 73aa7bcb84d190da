"""What a run leaves: its figures as JSON, and beside it a Chrome/Perfetto trace with a process a way of sharing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from app.telemetry.spans import Span


def write_result(result: Mapping[str, Any], path: Path) -> None:
    """`OUT.json`, and `OUT.trace.json` where captions were traced. Raises OSError."""
    figures = {name: value for name, value in result.items() if name != "traces"}
    path.write_text(json.dumps(figures, indent=2) + "\n")
    if result["traces"]:
        events = list(trace_events(result["traces"]))
        path.with_suffix(".trace.json").write_text("[\n" + ",\n".join(map(json.dumps, events)) + "\n]\n")


def trace_events(traces: Mapping[str, Sequence[Span]]) -> Iterator[dict[str, Any]]:
    """Each way is a process with a thread a model; its caption begins at zero."""
    lanes = ("target", "drafter")
    for pid, (way, spans) in enumerate(traces.items(), 1):
        yield {"name": "process_name", "ph": "M", "pid": pid, "tid": 0, "args": {"name": way}}
        for tid, lane in enumerate(lanes, 1):
            yield {"name": "thread_name", "ph": "M", "pid": pid, "tid": tid, "args": {"name": lane}}
        zero_ns = min((span.start_ns for span in spans), default=0)
        for span in spans:
            yield {
                "name": span.name, "ph": "X", "pid": pid, "tid": 1 + lanes.index(span.lane),
                "ts": (span.start_ns - zero_ns) / 1e3, "dur": (span.end_ns - span.start_ns) / 1e3,
            }  # fmt: skip
