"""A limited rate of frames, whatever becomes of the clock that dates them; see also `test_live`."""

from __future__ import annotations

import pytest

from app.sensors.throttle import Throttle


@pytest.mark.parametrize("set_by_ms", [-99_000, -3_600_000, 99_000])
def test_a_clock_that_is_set_costs_no_frames(set_by_ms: int) -> None:
    throttle = Throttle(10)
    before_ms = [10_000_000 + 50 * i for i in range(40)]
    after_ms = [before_ms[-1] + 50 + set_by_ms + 50 * i for i in range(40)]
    assert [sum(throttle.passes(t * 1_000_000) for t in times) for times in (before_ms, after_ms)] == [20, 20]
