"""The choice among the ways of sharing one GPU, on scripted costs: no time passes here."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.decoding.costs import Costs
from app.decoding.sharing import choose_sharing, promised_ms
from models.runtimes.nvidia import GpuError
from models.runtimes.sharing import EVERY_WAY, SERIAL, STREAMS, Sharing
from tests.app.decoding import toy

GREEN = Sharing("green_context", 32)


class Gpu:
    """Costs by way; `None`: the GPU refuses it."""

    def __init__(self, prefill_beside: dict[Sharing, float | None]) -> None:
        self.beside, self.way, self.tried = prefill_beside, SERIAL, list[Sharing]()
        self.told: list[str] = []

    def use(self, way: Sharing) -> None:
        if self.beside.get(way, 1e9) is None:
            raise GpuError(f"gpu.sharing: {way}: not with this driver")
        self.way = way
        self.tried.append(way)

    def measure(self) -> Costs:
        found = toy.costs()
        together = self.beside[self.way]
        assert together is not None
        return replace(found, overlap_target_ms=together * found.target_start_ms, overlap_step_ms=found.drafter_step.ms)

    def choose(self, ways: tuple[Sharing, ...]) -> Costs:
        return choose_sharing(ways, self.use, self.measure, 0.8, 20.0, lambda event, **figures: self.told.append(event))


def test_the_way_with_the_quickest_caption_is_taken_and_left_in_use() -> None:
    gpu = Gpu({SERIAL: 3.0, STREAMS: 1.6, GREEN: 1.05})
    costs = gpu.choose((SERIAL, STREAMS, GREEN))
    assert costs.sharing == "green_context(32)"
    assert gpu.way == GREEN
    assert gpu.tried == [SERIAL, STREAMS, GREEN, GREEN]


def test_turns_stay_unless_another_way_is_really_better() -> None:
    gpu = Gpu({SERIAL: 1.05, STREAMS: 1.05, GREEN: 1.05})
    assert gpu.choose((STREAMS, GREEN)).sharing == "serial"
    assert gpu.way == SERIAL


def test_a_way_that_the_gpu_refuses_is_left_out() -> None:
    gpu = Gpu({SERIAL: 3.0, STREAMS: 1.1, GREEN: None})
    assert gpu.choose((GREEN, STREAMS)).sharing == "streams"
    assert gpu.told == ["sharing_refused", "sharing_chosen"]
    alone = Gpu({SERIAL: 3.0, GREEN: None})
    assert alone.choose((GREEN,)).sharing == "serial"  # what was configured cannot be had: the fallback
    none = Gpu(dict.fromkeys(EVERY_WAY))
    with pytest.raises(GpuError, match="not even turns could be measured"):
        none.choose(EVERY_WAY)


def test_a_promise_is_never_worse_than_the_target_alone() -> None:
    found = toy.costs()
    slow = replace(found, overlap_target_ms=100 * found.target_start_ms, drafter_step=found.target_step)
    assert promised_ms(slow, 0.01, 20.0) <= found.autoregressive_ms(20.0)
