"""The clock: passes take their time, share a device at the given cost, and wait for each other by signals."""

from __future__ import annotations

import pytest

from app.simulation.clock import Clock, Pass, Process, Signal


def work(lane: str, device: int, *ms: float, kind: str = "step") -> Process:
    for one in ms:
        yield Pass(lane, device, kind, one)


def test_passes_of_one_process_follow_each_other() -> None:
    assert Clock({}).run(work("target", 0, 3.0, 4.0)) == pytest.approx(7.0)


def test_two_devices_do_not_disturb_each_other() -> None:
    clock = Clock({("target", "step", "step"): 2.0, ("drafter", "step", "step"): 2.0})
    clock.start(work("drafter", 1, 100.0))
    assert clock.run(work("target", 0, 10.0)) == pytest.approx(10.0)


def test_one_device_slows_both_while_both_run() -> None:
    clock = Clock({("target", "step", "step"): 2.0, ("drafter", "step", "step"): 4.0})
    clock.start(work("drafter", 0, 1.0))  # takes 4 ms beside the target, in which the target does 2 of its 10
    assert clock.run(work("target", 0, 10.0)) == pytest.approx(12.0)


def test_a_signal_wakes_who_waits_and_the_main_process_ends_the_run() -> None:
    signal, seen = Signal(), list[float]()

    def waiter(clock: Clock) -> Process:
        yield signal
        seen.append(clock.now)

    def main(clock: Clock) -> Process:
        yield Pass("target", 0, "step", 5.0)
        clock.set(signal)
        yield Pass("target", 0, "step", 1.0)

    clock = Clock({})
    clock.start(waiter(clock))
    clock.start(work("drafter", 1, 1000.0))  # dropped when the caption is there
    assert clock.run(main(clock)) == pytest.approx(6.0)
    assert seen == [pytest.approx(5.0)]


def test_a_schedule_in_which_everybody_waits_is_an_error() -> None:
    def stuck() -> Process:
        yield Signal()

    with pytest.raises(RuntimeError, match="stuck"):
        Clock({}).run(stuck())
