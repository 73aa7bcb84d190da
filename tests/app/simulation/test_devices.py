"""Devices that we do not have: what a roofline makes of published figures."""

from __future__ import annotations

import pytest

from app.simulation.devices import DEVICES, Device, PairPlan, parse_device
from app.simulation.inputs import SimulationError


def test_devices_are_named_alone_or_several() -> None:
    assert parse_device("h200") == (DEVICES["h200"], 1)
    assert parse_device("2xH200") == (DEVICES["h200"], 2)


@pytest.mark.parametrize("text", ["h300", "", "0xh200", "9xh200", "x2"])
def test_others_are_refused_with_the_names_that_are_known(text: str) -> None:
    with pytest.raises(SimulationError, match="not one of jetson-orin-64gb, rtx-4090, h100, h200"):
        parse_device(text)


def test_every_device_says_where_its_figures_are_from() -> None:
    assert all(len(device.source) > 30 for device in DEVICES.values())


def test_a_step_of_seven_billion_weights_reproduces_the_measurement_that_it_rests_on() -> None:
    """pytorch/ao's README: Llama-2-7B on an A100 makes 105, 147 and 200 tokens a second in bf16, int8 and int4."""
    a100 = Device("a100", 2039e9, 312e12, 80e9, "NVIDIA A100 80 GB datasheet")
    for precision, rate in (("16 bit", 105), ("int8", 147), ("int4", 200)):
        plan = PairPlan(target_precision=precision, target_rows=64)
        assert 1e3 / plan.step_times(a100).target_step_ms == pytest.approx(rate, rel=0.06)


def test_prefill_is_bound_by_arithmetic_and_a_step_by_memory() -> None:
    """Video-LLaVA's 2,076 rows of 6.6e9 multiply-adds at half of 989 TFLOP/s, and the attention's share."""
    times = PairPlan().step_times(DEVICES["h200"])
    assert times.target_prefill_ms == pytest.approx(2 * 2076 * 6.6e9 / (0.5 * 989e12) * 1e3, rel=0.06)
    assert times.target_step_ms == pytest.approx(13.2e9 / (0.68 * 4800e9) * 1e3, rel=0.1)
    assert times.free_rows > 64


def test_a_pair_of_equal_precision_has_a_cost_ratio_near_one() -> None:
    """facts of the survey: two 7B models alike lose in the decode phase, whatever the schedule."""
    assert PairPlan(drafter_precision="16 bit").step_times(DEVICES["h200"]).cost_ratio == pytest.approx(1.0, abs=0.1)


def test_what_does_not_fit_is_refused_and_a_device_each_is_room_for_more() -> None:
    plan = PairPlan(drafter_precision="16 bit")
    with pytest.raises(SimulationError, match=r"rtx-4090: .* need .* GB a device, it has 24; choose smaller"):
        plan.check(DEVICES["rtx-4090"], 1)
    plan.check(DEVICES["rtx-4090"], 2)
    PairPlan().check(DEVICES["rtx-4090"], 1)
    with pytest.raises(SimulationError, match="precision 'fp8': not one of"):
        PairPlan(drafter_precision="fp8").check(DEVICES["h200"], 1)


def test_prompt_lengths_can_be_given() -> None:
    short, whole = (PairPlan(target_rows=rows).step_times(DEVICES["h200"]) for rows in (500, 2076))
    assert short.target_prefill_ms < whole.target_prefill_ms / 3.9
