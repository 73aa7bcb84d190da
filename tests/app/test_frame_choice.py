"""The forecast tells what an open window will be given, as soon as no frame to come can change it."""

from __future__ import annotations

import numpy as np
import pytest

from app.frame_choice import FrameForecast, choose_frames, nearest
from app.sensors.contract import Frame

START, END, PLACES = 10_000_000, 11_000_000, 8


def replayed(times: list[int]) -> tuple[list[list[int]], list[int]]:
    """What the forecast says after each frame of the window, and what the window is given in the end."""
    forecast, inside, said = FrameForecast(), list[int](), list[list[int]]()
    for t_us in times:
        forecast.observe(t_us)
        if START <= t_us < END:
            inside.append(t_us)
            said.append(forecast.settled(inside, START, END, PLACES))
    return said, nearest(inside, START, END, PLACES)


def test_frames_are_evenly_spaced_among_the_real_ones() -> None:
    frames = [Frame(t_us, np.zeros((2, 2, 3), np.uint8)) for t_us in range(0, 800, 25)]
    chosen, unused = choose_frames(frames, 0, 800, 8)
    assert [f.frame.t_us for f in chosen] == [50, 150, 250, 350, 450, 550, 650, 750]
    assert len(unused) == 24


@pytest.mark.parametrize("rate", [5, 8, 10, 25, 30, 60])
@pytest.mark.parametrize("phase", [0.0, 0.3, 0.77])
def test_a_steady_camera_is_foretold_without_a_mistake(rate: int, phase: float) -> None:
    period = 1_000_000 / rate
    times = [int(START + (n + phase) * period) for n in range(-8, 2 * rate)]
    said, given = replayed(times)
    assert all(given[: len(picks)] == picks for picks in said)
    assert [len(picks) for picks in said] == sorted(len(picks) for picks in said)
    assert len(said[-1]) >= PLACES - 1  # before the window has closed, unless a frame might come at its very end


def test_frames_that_come_somewhat_early_or_late_do_not_upset_it() -> None:
    random = np.random.default_rng(3)
    wrong = 0
    for _ in range(50):
        phase = random.uniform(0, 33_333)
        times = [int(START + phase + n * 33_333 + random.uniform(-2_000, 2_000)) for n in range(-10, 31)]
        said, given = replayed(times)
        wrong += any(given[: len(picks)] != picks for picks in said)
    assert wrong == 0


def test_nothing_is_foretold_while_the_rate_is_not_known() -> None:
    forecast = FrameForecast()
    times: list[int] = []
    for t_us in range(START, START + 300_000, 100_000):
        forecast.observe(t_us)
        times.append(t_us)
        assert forecast.period_us is None
        assert forecast.settled(times, START, END, PLACES) == []
    forecast.observe(START + 300_000)
    assert forecast.period_us == 100_000
    assert forecast.settled([], START, END, PLACES) == []


def test_a_lost_frame_does_not_change_the_rate() -> None:
    forecast = FrameForecast()
    for n in (0, 1, 2, 3, 5, 6):
        forecast.observe(n * 100_000)
    forecast.observe(300_000)  # late: it says nothing of the rate
    assert forecast.period_us == 100_000


def test_the_nearest_frame_is_taken_and_the_earlier_of_two() -> None:
    assert nearest([100, 200, 900], 0, 1000, 4) == [0, 1, 2, 2]
    assert nearest([0, 250], 0, 1000, 4) == [0, 1, 1, 1]


def test_frames_of_damaged_times_are_not_reckoned_with_one_by_one() -> None:
    forecast = FrameForecast()
    for t_us in range(9):  # a microsecond apart
        forecast.observe(t_us)
    assert forecast.settled(range(9), 0, 10**15, 8) == []
