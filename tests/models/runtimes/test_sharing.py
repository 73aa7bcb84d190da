"""Two models on one GPU: what a way is called, and, in virtual time, when their passes run under each.

Passes take scripted milliseconds of a clock of their own. That streams of a GPU really overlap is for a GPU to show.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from models.bundle import VisionLanguageModel, load_model
from models.errors import ModelError
from models.runtimes import sharing
from models.runtimes.contract import Floats, Ints
from models.runtimes.fallback import FallbackDecoder, Ladder
from models.runtimes.nvidia import GpuError
from models.runtimes.shared import GpuShare, SharedDecoder, behind, ladder_of, on_gpu, share_gpu, share_of
from models.runtimes.sharing import EVERY_WAY, SERIAL, STREAMS, Sharing
from tests.app.decoding.virtual_time import VirtualTime
from tests.models.tiny import make_model

CHUNKED, PRIORITY, GREEN = (Sharing.parse(text) for text in ("chunked(32)", "priority", "green_context(48)"))


def test_a_way_is_its_name_and_back() -> None:
    assert Sharing.parse("chunked") == Sharing("chunked", 256)
    assert Sharing("green_context", 48) == GREEN
    for way in EVERY_WAY:
        assert Sharing.parse(str(way)) == way
    for wrong in ("", "both", "green_context", "green_context(0)", "streams(3)", "chunked(-1)", "serial "):
        with pytest.raises(ModelError, match=r"gpu.sharing: '.*' is none of serial, streams, priority"):
            Sharing.parse(wrong)


@dataclass
class TimedDecoder:
    """The contract in virtual time: a pass takes a millisecond for each row and is written down."""

    name: str
    clock: VirtualTime
    passes: list[tuple[str, float, float]]
    s_max: int = 256
    width: int = 2
    vocabulary: int = 4
    placed: list[Sharing] = field(default_factory=list)

    def forward(self, embeddings: Floats, length: int, rows: Ints, threads: int) -> Floats:
        begin = self.clock.now
        self.clock.work(float(len(embeddings)))
        self.passes.append((self.name, begin, self.clock.now))
        return np.zeros((len(rows), self.vocabulary), np.float32)

    def place(self, way: Sharing) -> None:
        if way.size > 100:
            raise GpuError("this GPU has 78 multiprocessors; name fewer")
        self.placed.append(way)


def run(monkeypatch: pytest.MonkeyPatch, way: Sharing) -> list[tuple[str, float, float]]:
    """The drafter draws twelve steps of 4 rows while the target prefills 128; every pass with its begin and end."""
    clock = VirtualTime()
    monkeypatch.setattr(sharing, "Condition", clock.condition)
    passes: list[tuple[str, float, float]] = []
    drafter, target = TimedDecoder("drafter", clock, passes), TimedDecoder("target", clock, passes)
    share = GpuShare(drafter, target, EVERY_WAY)  # type: ignore[arg-type]
    share.use(way)
    drafting = SharedDecoder(drafter, share, parted=False)  # type: ignore[arg-type]
    prefilling = SharedDecoder(target, share, parted=True)  # type: ignore[arg-type]

    def draft() -> None:
        for _ in range(12):
            drafting.forward(np.zeros((4, 2), np.float32), 0, np.arange(1), 1)

    running = clock.pool().submit(draft)
    prefilling.forward(np.zeros((128, 2), np.float32), 0, np.arange(1), 1)
    running.result()
    return passes


def overlap(passes: list[tuple[str, float, float]]) -> float:
    """Milliseconds in which both were in a pass."""
    drafter, target = ([one[1:] for one in passes if one[0] == name] for name in ("drafter", "target"))
    return sum(max(0.0, min(b, d) - max(a, c)) for a, b in drafter for c, d in target)


def test_by_turns_no_two_passes_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    passes = run(monkeypatch, SERIAL)
    assert overlap(passes) == 0
    assert [name for name, *_ in passes].count("target") == 1
    assert max(end for *_, end in passes) == 128 + 12 * 4


def test_chunked_lets_a_step_in_between_the_parts_of_the_prefill(monkeypatch: pytest.MonkeyPatch) -> None:
    passes = run(monkeypatch, CHUNKED)
    assert overlap(passes) == 0
    order = [name for name, *_ in passes]
    first = order.index("target")
    assert order[first : first + 7] == ["target", "drafter"] * 3 + ["target"]  # strictly in turn, though asked at once


def test_in_streams_both_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    passes = run(monkeypatch, STREAMS)
    assert overlap(passes) == 12 * 4
    assert max(end for *_, end in passes) == 128


def test_the_drafters_stream_is_made_anew_only_where_a_way_needs_another_one() -> None:
    drafter = TimedDecoder("drafter", VirtualTime(), [])
    share = GpuShare(drafter, drafter, EVERY_WAY)  # type: ignore[arg-type]
    for way in (SERIAL, STREAMS, PRIORITY, CHUNKED, GREEN, GREEN):
        share.use(way)
        assert share.way == way
    assert drafter.placed == [PRIORITY, STREAMS, GREEN]
    with pytest.raises(GpuError, match="78 multiprocessors"):
        share.use(Sharing("green_context", 132))
    assert share.way == SERIAL  # which needs nothing


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[VisionLanguageModel, VisionLanguageModel]:
    root: Path = tmp_path_factory.mktemp("sharing")
    return tuple(load_model(make_model(root / role, role), role) for role in ("drafter", "target"))  # type: ignore[arg-type, return-value]


def test_a_shared_pair_says_the_same(pair: tuple[VisionLanguageModel, VisionLanguageModel]) -> None:
    """Real models behind turns and parts: the same logits for the rows asked, wherever they lie."""
    shared = share_gpu(*pair, EVERY_WAY)
    shared.share.use(CHUNKED)
    assert share_of(shared.target) is shared.share
    assert share_of(pair[1]) is None
    assert share_of(behind(shared.share, pair[1], parted=True)) is shared.share
    x = pair[1].decoder.embed(np.arange(100))
    expected = pair[1].decoder.forward(x, 0, np.array([99, 3, 31, 32]), 1)
    found = shared.target.decoder.forward(x, 0, np.array([99, 3, 31, 32]), 1)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    pixels = np.zeros((8, 3, 28, 28), np.float32)
    np.testing.assert_array_equal(shared.target.vision.encode(pixels, 1), pair[1].vision.encode(pixels, 1))


def test_a_further_session_of_the_target_takes_turns_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Strategy `dsi` verifies on several sessions at once: on one GPU, one after the other by turns."""
    for way, longest in ((SERIAL, 2 * 64 + 12 * 4), (STREAMS, 64)):
        clock = VirtualTime()
        monkeypatch.setattr(sharing, "Condition", clock.condition)
        passes: list[tuple[str, float, float]] = []
        names = ("drafter", "target", "target 2")
        drafter, target, second = (TimedDecoder(name, clock, passes) for name in names)
        share = GpuShare(drafter, target, EVERY_WAY)  # type: ignore[arg-type]
        share.use(way)
        sessions = [SharedDecoder(one, share, parted=one is not drafter) for one in (drafter, target, second)]  # type: ignore[arg-type]
        pool = clock.pool()
        jobs = [
            pool.submit(lambda s=s, rows=rows, times=times: [  # type: ignore[misc]
                s.forward(np.zeros((rows, 2), np.float32), 0, np.arange(1), 1) for _ in range(times)
            ])
            for s, rows, times in zip(sessions, (4, 64, 64), (12, 1, 1), strict=True)
        ]  # fmt: skip
        for job in jobs:
            job.result()
        assert max(end for *_, end in passes) == longest


def test_without_a_gpu_in_common_nobody_waits_for_a_turn() -> None:
    share = GpuShare(*(TimedDecoder(name, VirtualTime(), []) for name in ("drafter", "target")), EVERY_WAY)  # type: ignore[arg-type]
    share.use(PRIORITY)
    share.begin_anew(shared=True)
    assert (share.way, share.ways) == (SERIAL, EVERY_WAY)
    share.begin_anew(shared=False)
    assert (share.way, share.ways) == (STREAMS, ())


@pytest.mark.parametrize("shared", [True, False])
def test_a_drafter_that_stays_when_the_target_falls_leaves_its_part_of_the_gpu(shared: bool) -> None:
    drafter = TimedDecoder("drafter", VirtualTime(), [])
    share = GpuShare(drafter, drafter, EVERY_WAY)  # type: ignore[arg-type]
    share.use(GREEN)
    share.begin_anew(shared=shared)
    assert drafter.placed == [GREEN, STREAMS]


def test_a_model_on_the_cpu_shares_no_gpu(pair: tuple[VisionLanguageModel, VisionLanguageModel]) -> None:
    drafter, _ = pair
    assert not on_gpu(drafter)
    assert ladder_of(drafter) is None
    ladder = Ladder(lambda runtime: (drafter.vision, drafter.decoder), ["tensorrt"], lambda *told: None)
    with pytest.raises(GpuError, match=r"priority: runtime tensorrt keeps the stream that it has"):
        FallbackDecoder(ladder).place(PRIORITY)
