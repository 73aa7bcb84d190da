"""`bench --gpu-checks`: the whole command on tiny shapes on the CPU; without a GPU it says what it would measure."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.cli import cli
from app.gpu_checks.figures import Figure
from app.gpu_checks.rig import Rig, build_rig, full_sizes, tiny_sizes
from app.gpu_checks.sharing import _accepted, fates
from tests.models.runtimes.test_nvidia import without_gpu


@without_gpu
def test_without_a_gpu_it_says_what_it_would_measure() -> None:
    result = CliRunner().invoke(cli, ["bench", "--gpu-checks"])
    assert result.exit_code == 3
    assert result.stdout.startswith("No figure was measured: ")
    for part in (
        *("decode step", "verify of 28", "int4 ÷ 16 bit: ≤ 0.45", "injected α", "transformers generate"),
        *("calibration chooses ÷ the best of these: ≤ 1.02", "green_context(32)", "host time", "demo pair"),
    ):
        assert part in result.stdout, part


def test_every_check_runs_on_tiny_shapes(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["bench", "--gpu-checks", "--tiny", "--json", str(tmp_path / "out.json")])
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["device"] == "CPU, tiny shapes: no measurement"
    missing = {row["name"]: row["note"] for row in found["figures"] if row["value"] is None}
    assert set(missing) <= {"TensorRT", "transformers static cache, compiled ÷ autoregressive"}, missing
    assert all(missing.values())  # each says why
    assert "not measured" in result.stdout
    names = [row["name"] for row in found["figures"]]
    assert sum("injected" in name for name in names) == 6 + 4
    assert sum(name.startswith("chosen plan") for name in names) == 4
    (real,) = [row for row in found["figures"] if row["name"].startswith("demo pair")]
    assert 0 <= real["value"] <= 1


def test_floors_at_full_size_are_the_issues() -> None:
    """Sizes alone: 13.5 GB of weights a step without the table, 1.1 GB of cache, about 31 TFLOP a prefill."""
    import torch

    from app.gpu_checks.rig import Side
    from models.video_llava import VideoLlava

    sizes = full_sizes()
    with torch.device("meta"):
        network = VideoLlava(sizes.target_clip, sizes.target).to(torch.bfloat16)
    side = Side(network, sizes.frames, sizes.target_text, 224)
    assert side.prompt == 2076
    assert 13.0e9 < side.weight_bytes < 13.6e9
    assert 1.0e9 < side.decoder.s_max * side.row_bytes < 1.2e9
    assert 28e12 < side.prefill_flop < 34e12


@pytest.fixture(scope="module")
def rig() -> Rig:
    return build_rig(tiny_sizes(), "cpu", 1)


def test_fates_are_drawn_once_for_all(rig: Rig) -> None:
    first, second = (fates(0.8, seed=3) for _ in range(2))
    drawn = [next(first) for _ in range(2000)]
    assert drawn == [next(second) for _ in range(2000)]
    assert 0.77 < sum(drawn) / 2000 < 0.83
    assert _accepted(5, iter([True, True, False, True])) == 2
    assert _accepted(2, iter([True, True])) == 2


def test_a_figure_is_met_or_not_or_neither() -> None:
    assert Figure("x", "torch", 1.2, "×", most=1.25).met is True
    assert Figure("x", "torch", 3.0, "×", least=4).met is False
    assert Figure("x", "torch", 3.0, "×").met is None
    assert Figure("x", "torch", None, "×", most=1).met is None
    assert Figure("x", "torch", None, "×").shown == "not measured"
