"""Two clocks against each other: what was put between them is found again, and how sure that is."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.live.alignment import UNSEEN_US, Alignment
from app.live.arrival import ArrivalClock
from app.live.motion import match
from app.publishing.state_payloads import Sync
from app.sensors.contract import Events, Frame, Item
from app.windower import Windower
from app.windows import Window
from tests.app.live.two_devices import BOOT_US, EPOCH_US, HEIGHT, MS, WIDTH, TwoDevices

LOOK_NS = 1_000_000_000


def learnt(devices: TwoDevices) -> tuple[Alignment, Sync]:
    """What is known once everything has arrived."""
    alignment, looked_ns = Alignment((WIDTH, HEIGHT)), 0
    for arrived_ns, item in devices.items():
        if isinstance(item, Events):
            alignment.events(item, arrived_ns)
        else:
            alignment.frame(item, arrived_ns)
        if arrived_ns - looked_ns > LOOK_NS:
            looked_ns = arrived_ns
            if (motion := alignment.motion()) is not None:
                alignment.matched(motion, match(motion))
    sync = alignment.sync
    assert sync is not None
    return alignment, sync


@settings(max_examples=4, deadline=None)
@given(
    st.integers(0, 10_000),
    st.sampled_from([40_000, -40_000, 3_600_000_000, 0]),
    st.sampled_from([100.0, -100.0, 0.0, 37.0]),
)
def test_an_injected_offset_is_found_within_5_ms_and_a_drift_within_20_ppm(
    seed: int, offset_us: int, drift_ppm: float
) -> None:
    devices = TwoDevices(seed, offset_us, drift_ppm, seconds=45)
    _, sync = learnt(devices)
    assert sync.method == "motion"
    assert abs(sync.offset_us - devices.offset_at_us(45e6)) <= 5_000
    assert abs(sync.drift_ppm - drift_ppm) <= 20
    assert abs(sync.offset_us - devices.offset_at_us(45e6)) <= sync.uncertainty_us
    assert abs(sync.drift_ppm - drift_ppm) <= sync.drift_uncertainty_ppm


def test_a_window_waits_for_the_frames_of_a_slow_camera_once_the_offset_is_known() -> None:
    devices = TwoDevices(7, 40_000, 100.0, seconds=20, transport_us=90_000)
    alignment, looked_ns = Alignment((WIDTH, HEIGHT)), 0
    cutters = [
        Windower(10**6, 10**6, resolution=(WIDTH, HEIGHT), frames_tell_time=False, frame_wait_us=wait_us)
        for wait_us in (0, 200_000)
    ]
    windows: list[list[Window]] = [[], []]
    for arrived_ns, item in devices.items():
        if isinstance(item, Events):
            alignment.events(item, arrived_ns)
            aligned: Item | None = item
        else:
            aligned = alignment.frame(item, arrived_ns)
        if aligned is not None:
            for cutter, cut in zip(cutters, windows, strict=True):
                cut += cutter.push(aligned)
        if arrived_ns - looked_ns > LOOK_NS:
            looked_ns = arrived_ns
            if (motion := alignment.motion()) is not None:
                alignment.matched(motion, match(motion))
    ideal_us, period_us = 10**6 * 15 // 16, 10**6 // 30
    off_us = [
        max(abs(window.frames[-1].frame.t_us - window.start_us - ideal_us) for window in cut[13:18]) for cut in windows
    ]
    assert off_us[1] <= period_us / 2 + 1000 < off_us[0]


def test_a_still_scene_tells_the_drift_and_says_how_little_it_knows_of_the_offset() -> None:
    devices = TwoDevices(1, 40_000, 100.0, seconds=45, moving=False, fps=10)
    _, sync = learnt(devices)
    assert sync.method == "arrival"
    assert abs(sync.drift_ppm - 100.0) <= 20
    assert sync.uncertainty_us >= UNSEEN_US
    assert abs(sync.offset_us - devices.offset_at_us(45e6)) <= sync.uncertainty_us


def test_frames_stand_on_the_event_clock() -> None:
    devices = TwoDevices(2, 40_000, 100.0, seconds=12)
    alignment, _ = learnt(devices)
    stamp_us = EPOCH_US + 12 * 10**6 - round(devices.offset_at_us(12e6))
    frame = Frame(stamp_us, np.zeros((HEIGHT, WIDTH, 3), np.uint8), exposure_us=6_000)
    aligned = alignment.frame(frame, (BOOT_US + 12_030_000) * 1000)
    assert aligned is not None
    assert aligned.exposure_us == 6_000
    assert abs(aligned.t_us - (EPOCH_US + 12 * 10**6)) <= 5_000


def test_frames_wait_a_second_for_an_event_clock_and_then_keep_their_own() -> None:
    alignment = Alignment((WIDTH, HEIGHT))
    frame = Frame(77, np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    assert alignment.frame(frame, 0) is None
    assert alignment.frame(frame, 500_000_000) is None
    assert alignment.frame(frame, 1_600_000_000) is frame
    assert alignment.alone
    events = Events(np.array([5]), *(np.zeros(1, kind) for kind in (np.int16, np.int16, np.uint8)))
    assert alignment.events(events, 1_700_000_000), "windows begin anew: time means something else"
    assert not alignment.alone
    assert alignment.sync is None, "one frame of another time says nothing yet"


@pytest.mark.parametrize("jitter", ["gamma", "exponential", "lognormal"])
@pytest.mark.parametrize("drift_ppm", [100.0, -150.0])
def test_the_envelope_finds_a_drift_under_jitter_of_any_form(jitter: str, drift_ppm: float) -> None:
    random = np.random.default_rng(3)
    late = {"gamma": (2, 2000), "exponential": (8000,), "lognormal": (7.5, 1.0)}[jitter]
    clock, last_us = ArrivalClock(), 0.0
    for number in range(60 * 30):
        t_us = number * 33_333
        last_us = max(last_us, t_us + 20 * MS + getattr(random, jitter)(*late))
        assert clock.observe(1_700_000_000_000_000 + round(t_us * (1 - drift_ppm * 1e-6)), int(last_us * 1000))
    line = clock.line
    assert line is not None
    assert abs(line.slope * 1e6 - drift_ppm) <= min(20.0, line.slope_error * 1e6)


@pytest.mark.parametrize("by_us", [3_600_000_000, -3_600_000_000])
def test_a_clock_that_is_set_begins_anew(by_us: int) -> None:
    clock, begin_us = ArrivalClock(), 7_200_000_000
    for number in range(100):
        assert clock.observe(begin_us + number * 100_000, number * 100_000_000 + 5_000_000)
    assert not clock.observe(begin_us + by_us, 10_000_000_000)
    line = clock.line
    assert line is not None
    assert line.host_us(begin_us + by_us) == 10_000_000


def test_a_frame_clock_that_is_set_back_keeps_the_frames_in_their_place_and_bounded() -> None:
    alignment, image = Alignment((WIDTH, HEIGHT)), np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    columns = [np.zeros(1, kind) for kind in (np.int16, np.int16, np.uint8)]
    for number in range(400):
        host_us = number * 100_000
        alignment.events(Events(np.array([host_us]), *columns), host_us * 1000)
        set_us = 7_200_000_000 if number < 200 else 3_600_000_000
        frame = alignment.frame(Frame(host_us + set_us, image), host_us * 1000)
        assert frame is not None
        assert abs(frame.t_us - host_us) < 1000
    assert len(alignment._frames) <= 101


def test_the_pixels_of_a_frame_are_let_go() -> None:
    alignment = Alignment((WIDTH, HEIGHT))
    alignment.events(Events(np.array([5]), *(np.zeros(1, kind) for kind in (np.int16, np.int16, np.uint8))), 0)
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels = weakref.ref(image)
    alignment.frame(Frame(77, image), 0)
    del image
    assert pixels() is None


def test_a_device_that_was_away_is_learnt_anew() -> None:
    clock = ArrivalClock(gap_us=1_000_000)
    for number in range(200):
        clock.observe(number * 100_000, number * 100_000_000 + 5_000_000)
    clock.observe(30_000_000, 30_045_000_000)  # 10 s later, 40 ms more behind
    line = clock.line
    assert line is not None
    assert line.host_us(30_000_000) == 30_045_000


def test_damaged_times_cost_no_memory() -> None:
    alignment = Alignment((WIDTH, HEIGHT))
    for t in ([0, 10**15], [10**15, 3], [10**15 + 5]):
        run = Events(np.array(t), *(np.zeros(len(t), kind) for kind in (np.int16, np.int16, np.uint8)))
        alignment.events(run, 1_000_000_000)
    assert sum(len(cells) for _, cells in alignment._cells) <= 1000
