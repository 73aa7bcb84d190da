"""`simulate` as a user calls it: what cannot be simulated is told in one line, before any model is loaded."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from app.cli import main


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "h300"], "not one of jetson-orin-64gb, rtx-4090, h100, h200"),
        (["--device", "h200", "--alpha", "1.5"], "'1.5' is not a list of numbers from 0 to 1"),
        (["--device", "h200", "--drafter-precision", "fp8"], "precision 'fp8': not one of 16 bit, int8, int4"),
        (["--device", "rtx-4090", "--drafter-precision", "16bit"], "choose smaller --target-precision"),
        (["--times", "FILE"], "step times belong to a --device"),
        (["--device", "h200", "--times", "FILE"], "unknown key speed"),
        (["--device", "h200", "--tokens", "0"], "greater than or equal to 1"),
    ],
)
def test_bad_input_is_one_usage_error(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    times = tmp_path / "times.json"
    times.write_text('{"speed": 1}')
    monkeypatch.setattr(
        sys, "argv", ["event-captioner", "simulate", *(str(times) if a == "FILE" else a for a in arguments)]
    )
    monkeypatch.setenv("COLUMNS", "300")
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())
