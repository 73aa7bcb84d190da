"""`bench --gpu-checks`: the whole command on tiny shapes on the CPU; without a GPU it says what it would measure."""

import json
import time
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from app.cli import cli
from app.gpu_checks.deadline import OutOfTime, deadline
from app.gpu_checks.figures import Figure
from app.gpu_checks.int4 import Int4Linear
from app.gpu_checks.rig import Rig, build_rig, full_sizes, tiny_sizes
from app.gpu_checks.sharing import COMBINATIONS, _accepted, fates
from tests.models.runtimes.test_nvidia import without_gpu


@without_gpu
def test_without_a_gpu_it_says_what_it_would_measure() -> None:
    result = CliRunner().invoke(cli, ["bench", "--gpu-checks"])
    assert result.exit_code == 3
    assert result.stdout.startswith("No figure was measured: ")
    for part in (
        *("decode step", "verify of 28", "int4 ÷ 16 bit: ≤ 0.45", "injected α", "transformers generate"),
        *("calibration chooses ÷ the best of these: ≤ 1.02", "green_context(32)", "host time", "demo pair"),
        *("true overlap in ms", "onnx-tensorrt", "OUT.trace.json"),
    ):
        assert part in result.stdout, part


def test_every_check_runs_on_tiny_shapes(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["bench", "--gpu-checks", "--tiny", "--json", str(tmp_path / "out.json")])
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["device"] == "CPU, tiny shapes: no measurement"
    missing = {(row["name"], row["runtime"]): row["note"] for row in found["figures"] if row["value"] is None}
    others = ("target decode step ÷ floor", "target prefill ÷ floor", "verify of 28 ÷ decode step")
    assert set(missing) <= {
        ("int4 drafter step ÷ its 16-bit step", "tensorrt"),
        ("transformers static cache, compiled ÷ autoregressive", "transformers"),
        *((name, runtime) for name in others for runtime in ("tensorrt", "onnx-cuda", "onnx-tensorrt")),
    }, missing
    assert all(missing.values())  # each says why
    assert "not measured" in result.stdout
    names = [row["name"] for row in found["figures"]]
    assert sum("injected" in name for name in names) == 2 * (6 + 4)  # for each drafter
    assert sum(name.startswith("chosen plan") for name in names) == 2 * 4
    for kind in ("bf16", "int4"):
        assert {f"hidden tokens ({kind})", f"true overlap ({kind})"} <= set(names)
    assert "traces" not in found
    trace = json.loads((tmp_path / "out.trace.json").read_text())
    ways = {event["args"]["name"]: event["pid"] for event in trace if event["name"] == "process_name"}
    assert set(ways) == {f"{placement}, {way}" for placement, way in COMBINATIONS}
    for pid in ways.values():
        passes = [event for event in trace if event["pid"] == pid and event["ph"] == "X"]
        assert {"prefill and verify", "encode"} <= {event["name"] for event in passes}
        assert min(event["ts"] for event in passes) == 0
    (real,) = [row for row in found["figures"] if row["name"].startswith("demo pair")]
    assert 0 <= real["value"] <= 1


def test_floors_at_full_size_are_the_issues() -> None:
    """Sizes alone: 13.5 GB of weights a step without the table, 1.1 GB of cache, about 31 TFLOP a prefill."""
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


def test_a_check_is_ended_at_its_bound_and_what_it_measured_stands() -> None:
    seen = []
    with pytest.raises(OutOfTime, match="took longer than its 0 s"), deadline(0.05):  # noqa: PT012
        while True:
            seen.append(time.sleep(0.001))
    assert seen
    with deadline(60):
        pass  # and no alarm is left behind
    time.sleep(0.1)


@pytest.mark.parametrize("rows", [1, 28, 100])
def test_four_bits_say_what_their_rounded_weights_say(rows: int) -> None:
    """Few rows by the packed weights, many by the rounded ones: the same product, close to that of the originals."""
    torch.manual_seed(1)
    linear = torch.nn.Linear(128, 96, bias=False).requires_grad_(False)
    x = torch.randn(rows, 128)
    whole = linear(x)
    packed = Int4Linear(linear)
    torch.testing.assert_close(packed(x), x @ packed.weight.T, rtol=1e-5, atol=1e-5)
    assert (packed(x) - whole).norm() < 0.2 * whole.norm()


def test_an_int4_drafter_shares_the_rest_with_its_original(rig: Rig) -> None:
    cheap = rig.drafter.with_int4()
    kinds = [type(module).__name__ for module in cheap.network.decoder.modules()]
    assert kinds.count("Int4Linear") == 2 * 7 + 1
    assert "Linear" not in kinds
    assert any(isinstance(module, torch.nn.Linear) for module in rig.drafter.network.decoder.modules())
    table = cheap.network.decoder.model.embed_tokens.weight
    assert table.data_ptr() == rig.drafter.network.decoder.model.embed_tokens.weight.data_ptr()


def test_spans_of_both_devices_by_their_own_events(rig: Rig) -> None:
    def work() -> None:
        rig.target.prefill()
        rig.drafter.enqueue("decode", 1, 1)

    found = rig.spans(work)
    assert [(span.lane, span.name) for span in found] == [
        ("drafter", "decode"), ("target", "encode"), ("target", "prefill"),
    ]  # fmt: skip
    assert all(span.end_ns > span.start_ns for span in found)
