"""The figures of a page are rewritten between its marks, and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app.bench.markdown import BEGIN, END, refresh

ROW: dict[str, Any] = {
    "placement": "lead",
    "caption_ms": {"p50": 50.0, "p95": 60.0},
    "ratio": 0.8,
    "floor_ratio": 1.25,
    "eta": 0.5,
    "eta_predicted": None,
    "alpha": 0.9,
    "draft_acceptance_rate": 0.7,
    "lossless": True,
    "ties": 0,
    "mismatches": 0,
}
BENCH: dict[str, Any] = {
    "machine": {"processor": "CPU", "cores": 2, "onnxruntime": "1.32.0"},
    "windows": 20,
    "strategies": {"prefill_hiding": ROW},
    "ablation": {"history": ROW | {"lossless": False, "mismatches": 3}},
    "placements": {},
    "one_thread": {},
    "history": {"repeated": {"windows": 4, "floor_ratio": 1.1}, "changed": {"windows": 16, "floor_ratio": None}},
    "guard": {"strategies": {"pearl": {"first_10": 1.1, "after_10": None}}},
    "injected": [
        {
            "strategy": "pearl",
            "alpha": 0.5,
            "cost_ratio": 0.1,
            "ratio": 0.9,
            "predicted_ratio": 0.8,
            "formula_ratio": 0.7,
        }
    ],
    "verify_cost": {"step_ms": 2.0, "knee": 3, "alone": {1: 1.0, 2: 1.1}, "fused": {1: 0.1, 2: 0.2}},
    "peers": {},
    "ratios": {"overlap/alone": 1.05},
    "decode_step": {"ratio": 3.0},
    "python_us": {"autoregressive": 60.0, "pearl": 90.0},
    "overhead_ms": {"p50": 4.0},
    "render": {"ms": 3.0},
    "streaming_prefill": {"ratio": 0.31, "whole_ms": {"p50": 80.0}, "streaming_ms": {"p50": 25.0}, "mismatches": 0},
    "memory": None,
}


def test_only_what_is_between_the_marks_is_written_anew(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    row = {"strategy": "pearl", "placement": None, "predicted_ms": 90.0, "measured_ms": 100.0, "error": -0.1}
    found = {"validation": {"windows": 12, "alpha": 0.9, "when": "2026-01-01", "rows": [row]}}
    refresh(page, BENCH, found)
    text = page.read_text()
    assert text.startswith(f"before\n{BEGIN}\n")
    assert text.endswith(f"{END}\nafter\n")
    assert "old" not in text
    assert "| prefill_hiding | lead | 50.0 | 60.0 | 0.80 | 1.25 | 0.50 | – | 0.900 | 0.70 | yes | 0 |" in text
    assert "**no: 3**" in text
    assert "| α 0.5, c 0.1 injected | 0.70 | 0.90 (0.80) |" in text
    assert "| pearl | 1.100 | – |" in text
    assert "| pearl | – | 90.0 | 100.0 | -10% |" in text
    assert "(most: pearl) | 75 (90) |" in text
    assert "| 0.31 (80.0 to 25.0) |" in text
    refresh(page, BENCH, None)
    assert "predicted ms" not in page.read_text()


def test_a_page_without_marks_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("text\n")
    with pytest.raises(ValueError, match=r"page\.md: no <!-- figures"):
        refresh(page, BENCH, None)
