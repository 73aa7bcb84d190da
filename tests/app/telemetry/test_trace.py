import json
from pathlib import Path
from typing import Any

import pytest

from app.telemetry.trace import TraceWriter
from tests.app.publishing.samples import MS, make_caption, make_dropped


def lanes(events: list[dict[str, Any]]) -> dict[int, str]:
    return {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}


def test_one_lane_a_model_and_one_a_sensor(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    with TraceWriter(path) as trace:
        trace.caption(make_caption(0, closed_ns=2_000 * MS), "front")
        trace.caption(make_caption(1, closed_ns=2_500 * MS), "front")
        trace.dropped(make_dropped(2), "front")
        assert not path.exists()
    events = json.loads(path.read_text())
    assert list(tmp_path.iterdir()) == [path]
    names = lanes(events)
    assert sorted(names.values()) == ["drafter", "front events", "front frames", "host", "target"]

    stages = [e for e in events if e["ph"] == "X" and names[e["tid"]] == "target" and e["args"]["window"] == 0]
    assert [e["name"] for e in stages] == ["encode", "prefill", "prefill", "verify", "decode"]
    assert (stages[0]["ts"], stages[0]["dur"]) == (2_004_000, 6_000)
    assert stages[3]["args"]["tokens"] == 6

    windows = [e for e in events if e["ph"] == "X" and names[e["tid"]] == "front events"]
    assert [(e["ts"], e["dur"]) for e in windows[:2]] == [(1_000_000, 1_000_000), (2_000_000, 500_000)]  # no overlap
    assert windows[2]["args"]["dropped"] == "superseded"
    assert [e["args"]["events"] for e in events if e["ph"] == "C"] == [100, 100, 100]
    arrivals = [e["ts"] for e in events if e["name"] == "frame"]
    assert len(arrivals) == len(set(arrivals))
    assert arrivals == sorted(arrivals)


def test_what_an_interruption_leaves_is_an_array_without_its_end(tmp_path: Path) -> None:
    trace = TraceWriter(tmp_path / "trace.json")
    trace.caption(make_caption(), "front")
    left = (tmp_path / "trace.json.part").read_text()  # as a kill would leave it
    assert len(json.loads(left + "]")) > 10
    trace.close()
    trace.close()


def test_a_failure_before_the_first_window_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), TraceWriter(tmp_path / "t.json"):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_an_error_still_closes_it(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), TraceWriter(tmp_path / "t.json") as trace:  # noqa: PT012
        trace.caption(make_caption(), "front")
        raise RuntimeError
    assert json.loads((tmp_path / "t.json").read_text())
