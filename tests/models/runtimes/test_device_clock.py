"""Passes of a device on the host's clock, with scripted clocks: a device that runs late, drifts, or has no clock."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from models.runtimes.device_clock import RENEWED_NS, DeviceClock
from models.runtimes.nvidia import GpuError

MS = 1_000_000


@dataclass
class Clocks:
    """The host's clock in ns, and a device's own, which runs `drift` times as fast from another zero."""

    host_ns: int = 5_000 * MS
    drift: float = 1.0
    failing: bool = False
    waited: list[int] = field(default_factory=list)

    def now(self) -> int:
        self.host_ns += 1000  # looking takes a microsecond
        return self.host_ns

    def record(self) -> int:
        if self.failing:
            raise GpuError("CUDA event: CUDA error 400")
        return self.host_ns

    def wait(self, event: int) -> None:
        self.waited.append(event)

    def elapsed_ms(self, first: int, second: int) -> float:
        return (second - first) * self.drift / MS

    def run(self, clock: DeviceClock, ms: float, late_ms: float = 0.0) -> tuple[int, int]:
        """A pass: the device begins late and is busy for so long. When it really was."""
        begin = clock.begin()
        start = self.host_ns
        self.host_ns += round((late_ms + ms) * MS)
        end = clock.mark()
        clock.note(begin, end)
        return start, self.host_ns


def test_passes_are_told_where_they_were_to_a_few_microseconds() -> None:
    clocks = Clocks()
    clock = DeviceClock(clocks, clocks.now)
    real = [clocks.run(clock, ms) for ms in (3.0, 0.25, 11.0)]
    for told, was in zip(clock.busy, real, strict=True):
        assert told == pytest.approx(was, abs=3000)
    assert len(clocks.waited) == 1  # one reference for all of them


def test_the_reference_is_renewed_before_the_clocks_have_drifted_apart() -> None:
    """A device whose clock is 50 millionths fast, for a minute: still within 60 µs."""
    clocks = Clocks(drift=1 + 50e-6)
    clock = DeviceClock(clocks, clocks.now)
    for _ in range(120):
        was = clocks.run(clock, 500.0)
        assert clock.busy[-1] == pytest.approx(was, abs=60_000)
    assert 40 <= len(clocks.waited) <= 60 * 10**9 // RENEWED_NS


def test_another_stream_has_a_reference_of_its_own() -> None:
    one, other = Clocks(), Clocks(host_ns=9_000 * MS)
    clock = DeviceClock(one, one.now)
    one.run(clock, 1.0)
    clock.follow(other)
    other.run(clock, 1.0)
    assert len(one.waited) == len(other.waited) == 1


def test_without_events_nothing_is_told_and_a_clock_that_fails_is_given_up() -> None:
    clock = DeviceClock(None)
    clock.note(clock.begin(), clock.mark())
    assert clock.busy == []
    clocks = Clocks()
    clock = DeviceClock(clocks, clocks.now)
    clocks.run(clock, 1.0)
    clocks.failing = True
    clocks.run(clock, 1.0)
    clocks.failing = False
    clocks.run(clock, 1.0)
    assert len(clock.busy) == 1
