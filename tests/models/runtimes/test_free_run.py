"""Free runs: the same tokens as pass by pass, a bounded number of steps ahead, by the torch runtime's own code."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing

import numpy as np
import pytest

from models.eventgpt import EventGPT
from models.runtimes.contract import FreeRunning, Likeliest, WarmDecoder, WarmVision
from models.runtimes.fallback import FallbackDecoder, Ladder
from models.runtimes.free_run import AHEAD, run_ahead
from models.runtimes.nvidia import OutOfGpuMemory
from models.runtimes.shared import GpuShare, SharedDecoder
from models.runtimes.sharing import SERIAL, STREAMS
from models.runtimes.torch import TorchVision
from models.runtimes.torch_static import StaticTorchDecoder
from tests.models.tiny import S_MAX, write_checkpoint

PROMPT = np.arange(3, 23)


class Log:
    """A device that writes down what it is asked for; steps are done when they are waited for."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def enqueue(self, k: int) -> Step:
        self.said.append(f"enqueue {k}")
        return Step(self.said, k)

    def read(self, k: int) -> Likeliest:
        self.said.append(f"read {k}")
        return Likeliest(k, 1.0)


class Step:
    def __init__(self, said: list[str], k: int) -> None:
        self._said, self._k = said, k

    def wait(self) -> None:
        self._said.append(f"wait {self._k}")


def test_the_next_step_is_enqueued_before_the_last_is_read_and_no_more() -> None:
    log = Log()
    assert [each.token for each in run_ahead(log.enqueue, log.read, 4)] == [0, 1, 2, 3]
    for k in range(1, 4):
        assert log.said.index(f"enqueue {k}") < log.said.index(f"read {k - 1}")
    for k in range(AHEAD, 4):
        assert log.said.index(f"enqueue {k}") > log.said.index(f"read {k - AHEAD}")


def test_a_run_that_is_ended_waits_for_what_is_under_way() -> None:
    log = Log()
    with closing(run_ahead(log.enqueue, log.read, 10)) as run:
        assert [next(run).token for _ in range(3)] == [0, 1, 2]
    assert [line for line in log.said if line.startswith("enqueue")] == [f"enqueue {k}" for k in range(2 + AHEAD)]
    assert [line for line in log.said if line.startswith("wait")] == [f"wait {k}" for k in range(2 + AHEAD)]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> EventGPT:
    return EventGPT.load(write_checkpoint(tmp_path_factory.mktemp("run") / "drafter", "drafter", 3))


def static(network: EventGPT) -> StaticTorchDecoder:
    return StaticTorchDecoder(network.decoder, S_MAX)


def pass_by_pass(decoder: WarmDecoder, count: int) -> list[Likeliest]:
    """Behind the prompt: the first token, and `count` after it, each from logits on the host."""
    logits, made = decoder.forward(decoder.embed(PROMPT), 0, np.array([len(PROMPT) - 1]), 1)[0], list[Likeliest]()
    for k in range(count + 1):
        token = int(logits.argmax())
        made.append(Likeliest(token, float(1 / np.exp(logits - logits[token]).sum())))
        logits = decoder.forward(decoder.embed(np.array([token])), len(PROMPT) + k, np.array([0]), 1)[0]
    return made


def same(found: list[Likeliest], expected: list[Likeliest]) -> None:
    assert [each.token for each in found] == [each.token for each in expected]
    np.testing.assert_allclose([e.probability for e in found], [e.probability for e in expected], rtol=1e-5)


def test_a_run_says_what_single_passes_say_with_the_same_probabilities(network: EventGPT) -> None:
    first, *expected = pass_by_pass(static(network), 30)
    decoder = static(network)
    pass_by_pass(decoder, 0)
    same(list(decoder.greedy(first.token, len(PROMPT), 30)), expected)
    with closing(decoder.greedy(first.token, len(PROMPT), 30)) as run:  # ended early: the steps ahead do no harm
        same([next(run) for _ in range(4)], expected[:4])
    fed = decoder.embed(np.array([expected[3].token]))
    after = decoder.forward(fed, len(PROMPT) + 4, np.array([0]), 1)[0]
    assert int(after.argmax()) == expected[4].token
    with pytest.raises(ValueError, match=rf"20 rows after 150 do not fit a cache of {S_MAX}"):
        decoder.greedy(0, 150, 20)


@pytest.mark.parametrize("way", [SERIAL, STREAMS])
def test_behind_a_share_too_by_turns_or_in_streams(network: EventGPT, way: object) -> None:
    first, *expected = pass_by_pass(static(network), 9)
    inner = static(network)
    share = GpuShare(inner, inner, (SERIAL, STREAMS))
    share.use(way)  # type: ignore[arg-type]
    decoder = SharedDecoder(inner, share, parted=False)
    pass_by_pass(decoder, 0)
    made = decoder.greedy(first.token, len(PROMPT), 9)
    assert made is not None
    same(list(made), expected)


class Cramped(StaticTorchDecoder):
    """Runs free for three tokens; then its memory is gone."""

    def greedy(self, first: int, length: int, count: int) -> Generator[Likeliest]:
        with closing(super().greedy(first, length, count)) as run:
            for _ in range(3):
                yield next(run)
        raise OutOfGpuMemory("decoder: the GPU's memory is full")


def test_a_run_that_loses_its_memory_ends_and_the_next_runtime_goes_on(network: EventGPT) -> None:
    first, *expected = pass_by_pass(static(network), 30)

    def load(runtime: str) -> tuple[WarmVision, WarmDecoder]:
        kind = Cramped if runtime == "tensorrt" else StaticTorchDecoder
        return TorchVision(network.vision), kind(network.decoder, S_MAX)

    told: list[str] = []
    decoder = FallbackDecoder(Ladder(load, ["tensorrt", "torch"], lambda before, after, why: told.append(before)))
    assert isinstance(decoder, FreeRunning)
    pass_by_pass(decoder, 0)
    made = decoder.greedy(first.token, len(PROMPT), 30)
    assert made is not None
    found = list(made)
    same(found, expected[:3])
    assert told == ["tensorrt"]
    assert decoder.greedy(expected[2].token, len(PROMPT) + 3, 5) is None  # its cache is still empty
    fed = decoder.embed(np.array([expected[2].token]))
    logits = decoder.forward(fed, len(PROMPT) + 3, np.array([0]), 1)[0]
    assert int(logits.argmax()) == expected[3].token
