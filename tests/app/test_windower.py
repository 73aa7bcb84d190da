"""Windows: half-open, complete, in order, whatever the batches look like."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.sensors.contract import Events, Frame, Item
from app.sensors.events import Runs
from app.windower import Windower
from app.windows import Window, drafter_events

LENGTH = 1000


def events(*times: int) -> Events:
    t = np.array(times, np.int64)
    return Events(t, np.arange(len(t), dtype=np.int16), np.zeros(len(t), np.int16), np.zeros(len(t), np.uint8))


def frame(t_us: int) -> Frame:
    return Frame(t_us, np.zeros((2, 2, 3), np.uint8))


def windower(length: int = LENGTH, hop: int = LENGTH, **options: int) -> Windower:
    return Windower(length, hop, resolution=(4, 4), **options)


def test_cutting_copies_nothing_and_whoever_wants_the_events_in_one_piece_joins_them() -> None:
    cutter = windower()
    for t in range(0, LENGTH, 100):
        cutter.push(events(t, t + 99))
    (window,) = cutter.push(events(LENGTH))
    assert isinstance(window.events, Runs)
    assert (len(window.events), len(window.events.runs)) == (20, 10)
    assert drafter_events(window, 150).t.tolist() == [899, 900, 999]
    assert len(window.events.runs) == 10, "the drafter's part is joined, not the whole"
    assert window.events.t.tolist() == [t for k in range(0, LENGTH, 100) for t in (k, k + 99)]


def run(cutter: Windower, items: list[Item]) -> list[Window]:
    windows: list[Window] = []
    for item in items:
        windows += cutter.push(item)
    return windows + cutter.finish()


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[Item], list[int], list[int]]:
    """A merged stream in random batches, with its event times and frame times."""
    times = sorted(draw(st.lists(st.integers(0, 8000), min_size=1, max_size=80)))
    frames = sorted(draw(st.lists(st.integers(0, 8000), max_size=30, unique=True)))
    items: list[Item] = []
    rest, marks = list(times), [*frames, 10_000]
    for mark in marks:
        before = [t for t in rest if t < mark]
        rest = rest[len(before) :]
        while before:
            size = draw(st.integers(1, len(before)))
            items.append(events(*before[:size]))
            before = before[size:]
        if mark < 10_000:
            items.append(frame(mark))
    return items, times, frames


@settings(max_examples=150, deadline=None)
@given(streams(), st.sampled_from([1000, 500, 250]), st.sampled_from([0, 100, 400]))
def test_every_event_is_in_as_many_windows_as_cover_it(
    stream: tuple[list[Item], list[int], list[int]], hop: int, lead: int
) -> None:
    items, times, frames = stream
    cutter = windower(hop=hop, lead_us=lead)
    given_out = run(cutter, items)
    windows = [w for w in given_out if not w.partial]
    first, last = min(times + frames), max(times + frames)
    seen: Counter[int] = Counter()
    for window in windows:
        t = window.events.t
        assert (np.diff(t) >= 0).all()
        assert ((t >= window.start_us) & (t < window.end_us)).all()
        assert (window.start_us - first) % hop == 0
        expected = [x for x in times if window.start_us <= x < window.end_us]
        assert t.tolist() == expected
        seen.update(t.tolist())
        inside = {x for x in frames if window.start_us <= x < window.end_us}
        chosen = [w.frame.t_us for w in window.frames]
        assert len(chosen) == (8 if inside else 0)
        assert chosen == sorted(chosen)
        assert {f.frame.t_us for f in window.frames if not f.repeat} | {f.t_us for f in window.unused_frames} == inside
        assert sum(not f.repeat for f in window.frames) + len(window.unused_frames) == len(inside)
    for t, count in Counter(times).items():
        if first + LENGTH <= t < last - LENGTH:  # neither the ramp at the start nor the remainder at the end
            assert seen[t] == count * (LENGTH // hop)
    assert [w.index for w in windows] == list(range(len(windows)))
    assert [w.start_us for w in windows] == sorted({w.start_us for w in windows})
    assert cutter.late_events == cutter.late_frames == cutter.excess_events == 0
    for window in (w for w in given_out if w.partial):
        final = [w for w in windows if w.start_us == window.start_us]
        assert not final or final[0].events.t[: len(window.events)].tolist() == window.events.t.tolist()
        assert (window.events.t < window.end_us - lead).all()


@settings(max_examples=60, deadline=None)
@given(streams())
def test_batching_does_not_matter(stream: tuple[list[Item], list[int], list[int]]) -> None:
    items, _, _ = stream
    one_by_one: list[Item] = []
    for item in items:
        one_by_one += [item] if isinstance(item, Frame) else [events(int(t)) for t in item.t]

    def told(windows: list[Window]) -> list[tuple[int, int, list[int], list[int]]]:
        return [(w.start_us, w.end_us, w.events.t.tolist(), [f.frame.t_us for f in w.frames]) for w in windows]

    assert told(run(windower(), items)) == told(run(windower(), one_by_one))


def test_short_recording_is_one_window() -> None:
    (window,) = run(windower(), [events(0, 10), frame(11), events(129)])
    assert (window.start_us, window.end_us, len(window.events)) == (0, 130, 3)
    assert "frames repeated: 1 real" in window.notes
    assert any(note.startswith("shorter than configured") for note in window.notes)
    assert [f.repeat for f in window.frames] == [False] + [True] * 7


def test_short_remainder_is_dropped_and_long_one_kept() -> None:
    cutter = windower()
    assert len(run(cutter, [events(0), events(1400)])) == 1
    assert cutter.dropped_remainders == 1
    windows = run(windower(), [events(0), events(1700)])
    assert [(w.start_us, w.end_us) for w in windows] == [(0, 1000), (1000, 1701)]
    full = run(windower(), [events(0), events(1990)])[1]
    assert (full.end_us, full.notes) == (2000, ())


def test_still_scene_gives_windows_of_frames() -> None:
    windows = run(windower(), [frame(t) for t in range(0, 3000, 100)])
    assert [len(w.events) for w in windows] == [0, 0, 0]
    assert [len(w.unused_frames) for w in windows] == [2, 2, 2]


def test_no_frames_is_a_window_without_frames() -> None:
    assert run(windower(), [events(0, 999)])[0].frames == ()


def test_time_jump_skips_ahead() -> None:
    cutter = windower(lead_us=300)
    windows = [w for w in run(cutter, [events(0, 5), events(10**15), events(10**15 + 900)]) if not w.partial]
    assert len(windows) == 2
    assert windows[1].start_us == 10**15
    assert cutter.empty_windows == 10**12 - 1
    assert any("time jumped" in note for note in windows[1].notes)


def test_time_that_runs_backwards_is_counted_and_dropped() -> None:
    cutter = windower()
    windows = run(cutter, [events(0, 500), events(400, 600), events(1200), frame(100), events(1300, 1250, 1900)])
    assert [w.events.t.tolist() for w in windows] == [[0, 500, 600], [1200, 1300, 1900]]
    assert (cutter.late_events, cutter.late_frames) == (2, 1)


def test_partial_comes_before_the_window_and_holds_what_came_before() -> None:
    cutter = windower(lead_us=200)
    assert cutter.push(events(0, 700)) == []
    (partial,) = cutter.push(events(810, 820))
    assert (partial.partial, partial.end_us, partial.events.t.tolist()) == (True, 1000, [0, 700])
    assert cutter.push(events(900)) == []
    (window,) = cutter.push(frame(1000))
    assert (window.partial, window.events.t.tolist()) == (False, [0, 700, 810, 820, 900])


def test_an_index_that_a_partial_window_had_is_not_given_to_another_stream() -> None:
    cutter = windower(lead_us=200)
    ahead = cutter.push(events(0, 850))
    assert [(window.index, window.partial) for window in ahead] == [(0, True)]
    assert cutter.next_index == 1, "a draft of that id is out already"
    cutter.push(events(1000))
    assert cutter.next_index == 1


def test_tick_closes_and_leads_without_items() -> None:
    cutter = windower(lead_us=200)
    assert cutter.tick(5000) == []
    cutter.push(events(0))
    assert [w.partial for w in cutter.tick(800)] == [True]
    assert [w.partial for w in cutter.tick(1000)] == [False]
    assert cutter.tick(10**12) == []
    assert cutter.finish() == []


def test_events_over_the_limit_go_oldest_first_and_are_counted_and_said() -> None:
    cutter = windower(max_events=3)
    (window,) = run(cutter, [events(0, 1), events(2, 3, 4), events(5)])
    assert window.events.t.tolist() == [3, 4, 5]
    assert window.dropped_events == cutter.excess_events == 3
    assert any("the oldest 3 " in note for note in window.notes)


def test_events_of_the_next_window_push_none_out_of_one_that_closes_with_them() -> None:
    windows = run(windower(max_events=3), [events(100, 200, 300), events(1200, 1300, 1400), events(1999)])
    assert [w.events.t.tolist() for w in windows] == [[100, 200, 300], [1300, 1400, 1999]]
    assert [w.dropped_events for w in windows] == [0, 1]


def test_events_that_closed_windows_have_held_do_not_count_against_the_limit() -> None:
    cutter = windower(max_events=3)
    (window,) = cutter.push(events(0, 998, 999, 1000, 1001))
    assert len(window.events) == 3
    assert cutter.excess_events == 0


@settings(max_examples=100, deadline=None)
@given(streams(), st.sampled_from([1000, 500, 300]), st.integers(1, 30))
def test_every_event_of_a_window_is_in_it_or_counted_as_dropped(
    stream: tuple[list[Item], list[int], list[int]], hop: int, most: int
) -> None:
    items, times, _ = stream
    cutter = windower(hop=hop, max_events=most)
    for window in run(cutter, items):
        of_it = [t for t in times if window.start_us <= t < window.end_us]
        assert len(window.events) + window.dropped_events == len(of_it)
        assert window.events.t.tolist() == of_it[window.dropped_events :], "the newest are kept"
        assert cutter._events.count <= most


def test_a_frame_belongs_where_the_middle_of_its_exposure_lies() -> None:
    exposed = Frame(950, np.zeros((2, 2, 3), np.uint8), exposure_us=200)
    windows = run(windower(), [events(0, 999), exposed, events(1000, 1999)])
    assert [len({f.frame.t_us for f in w.frames}) for w in windows] == [0, 1]


def test_frames_of_a_second_device_close_no_window_ahead_of_the_events() -> None:
    cutter = windower(frames_tell_time=False)
    cutter.push(events(0, 100))
    assert cutter.push(frame(1100)) == []
    (window,) = cutter.push(events(600, 1200))
    assert window.events.t.tolist() == [0, 100, 600]
    cutter.push(frame(950))  # longer under way than the events
    assert (cutter.late_events, cutter.late_frames, cutter.slow_frames) == (0, 0, 1)


def two_devices(frame_wait_us: int, delay_us: int, **options: int) -> list[Window]:
    """Three windows of events every 10 µs and frames every 100 µs that come `delay_us` later."""
    cutter = windower(frames_tell_time=False, frame_wait_us=frame_wait_us, **options)
    windows: list[Window] = []
    for t in range(0, 3000 + delay_us + 100, 10):
        windows += cutter.push(events(t))
        at = t - delay_us
        if at >= 0 and at % 100 == 0:
            windows += cutter.push(frame(at))
    return [window for window in windows if not window.partial][:3]


def chosen(window: Window) -> list[int]:
    return [chosen.frame.t_us for chosen in window.frames]


@pytest.mark.parametrize("hop", [1000, 400])
def test_a_window_waits_for_the_frames_that_it_is_to_be_given(hop: int) -> None:
    at_once = two_devices(0, 0, hop=hop)
    waited = two_devices(300, 250, hop=hop)
    assert [chosen(window) for window in waited] == [chosen(window) for window in at_once]
    assert [window.events.t.tolist() for window in waited] == [window.events.t.tolist() for window in at_once]
    assert [chosen(window) for window in two_devices(0, 250, hop=hop)] != [chosen(window) for window in at_once]


def test_a_window_waits_for_no_frame_that_changes_nothing() -> None:
    cutter = windower(frames_tell_time=False, frame_wait_us=300)
    cutter.push(events(0))
    for t in range(0, 950, 100):
        cutter.push(frame(t))
    assert [window.end_us for window in cutter.push(events(1000))] == [1000]


def test_a_window_waits_no_longer_than_it_is_told_to() -> None:
    cutter = windower(frames_tell_time=False, frame_wait_us=300)
    cutter.push(events(0))
    for t in range(0, 850, 100):
        cutter.push(frame(t))
    assert cutter.push(events(1000, 1290)) == []
    assert chosen(cutter.tick(1300)[0])[-1] == 800
    assert cutter.push(frame(900)) == []
    assert cutter.slow_frames == 1


def test_a_camera_that_gives_no_more_frames_is_not_waited_for() -> None:
    cutter = windower(frames_tell_time=False, frame_wait_us=300)
    for t in range(0, 450, 100):
        cutter.push(frame(t))
    cutter.push(events(0, 999))
    assert [window.end_us for window in cutter.push(events(1000))] == [1000]
    assert [window.end_us for window in cutter.push(events(2000))] == [2000]


def test_a_draft_ahead_is_not_begun_before_the_window_that_waits_has_closed() -> None:
    cutter = windower(lead_us=950, frames_tell_time=False, frame_wait_us=300)
    cutter.push(events(0))
    for t in range(0, 850, 100):
        cutter.push(frame(t))
    assert cutter.push(events(1040, 1100)) == []
    assert [(window.start_us, window.partial) for window in cutter.push(frame(900))] == [(0, False), (1000, True)]


def test_memory_is_bounded_by_the_open_windows() -> None:
    cutter = windower(hop=250)
    for t in range(0, 100_000, 10):
        cutter.push(events(t))
        cutter.push(frame(t))
        assert len(cutter._events) <= 101
        assert len(cutter._frames) <= 101


def test_drafter_takes_the_end_of_the_window() -> None:
    (window,) = run(windower(), [events(*range(1000))])
    assert drafter_events(window, 50).t.tolist() == list(range(950, 1000))
    cutter = windower(lead_us=200)
    cutter.push(events(*range(700)))
    (partial,) = cutter.push(frame(850))
    assert drafter_events(partial, 50).t.tolist() == list(range(650, 700))
    assert len(drafter_events(partial, 5000)) == 700


@pytest.mark.parametrize(("length", "hop", "lead"), [(0, 0, 0), (10, 11, 0), (10, 5, 10)])
def test_impossible_settings_are_refused(length: int, hop: int, lead: int) -> None:
    with pytest.raises(ValueError, match="window"):
        Windower(length, hop, lead_us=lead, resolution=(1, 1))
