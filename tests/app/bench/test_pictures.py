"""The chart and the timelines: files that open, drawn from what was measured."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from app.bench.chart import terminal_chart, write_chart
from app.bench.lanes import Lane, run_lanes
from app.bench.timelines import COLOURS, write_timelines
from app.bench.windows import BenchWindow
from app.captioner import CaptionerSettings
from app.planning import measure_costs
from app.windows import Window
from models.bundle import VisionLanguageModel

SVG = "{http://www.w3.org/2000/svg}"
ROWS: dict[str, dict[str, Any]] = {
    "autoregressive": {"caption_ms": {"p50": 100.0, "p95": 120.0}, "ratio": 1.0},
    "pearl": {"caption_ms": {"p50": 50.0, "p95": 60.0}, "ratio": 0.5},
}


def test_the_chart_is_a_png_with_bars_as_long_as_their_times(tmp_path: Path) -> None:
    path = tmp_path / "chart.png"
    write_chart(path, ROWS, 40.0, "two strategies")
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        colours = [[picture.getpixel((x, y)) for x in range(picture.width)] for y in (64 + 10, 64 + 34 + 10)]
    grey, blue = colours[0].count((0x9A, 0xA0, 0xA6)), colours[1].count((0x3B, 0x6F, 0xB6))
    assert grey == pytest.approx(2 * blue, rel=0.02)


def test_the_chart_in_a_terminal_marks_the_floor() -> None:
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(terminal_chart(ROWS, 40.0))
    text = console.export_text()
    assert "50.0 ms" in text
    assert text.count("│") == 3


def test_a_timeline_has_a_bar_for_every_recorded_span(
    tiny_pair: tuple[VisionLanguageModel, VisionLanguageModel], tiny_window: Callable[..., Window], tmp_path: Path
) -> None:
    settings = CaptionerSettings(max_new_tokens=8, drafter_span_us=500_000)
    costs = measure_costs(*tiny_pair, settings)
    lanes = [Lane(name, name, None, costs, guard=False) for name in ("autoregressive", "pearl")]
    run_lanes(lanes, tiny_pair, settings, [BenchWindow(tiny_window(n), None) for n in range(3)], lambda: None)
    for lane, path in zip(lanes, write_timelines(lanes, tmp_path / "new"), strict=True):
        root = ElementTree.parse(path).getroot()
        bars = [title.text or "" for title in root.iter(f"{SVG}title")]
        median = sorted(lane.captions, key=lambda caption: caption.finished_ns - caption.started_ns)[1]
        assert len(bars) == len(median.spans)
        assert {bar.split()[0] for bar in bars} <= set(COLOURS)
        assert any("verified caption" in (text.text or "") for text in root.iter(f"{SVG}text"))
        assert path.name == f"{lane.name}.svg"
