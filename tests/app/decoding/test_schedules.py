"""Each schedule does what its paper's pseudo-code does: who starts, verifies, cancels, rolls back what, and when."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest

from app.decoding import ssd, swiftspec
from app.decoding.guard import Guard
from tests.app.decoding import pseudo_code
from tests.app.decoding.pseudo_code import Process, Simulation
from tests.app.decoding.scripted import Script, Stage, Times
from tests.app.decoding.toy import EOS

TRUTH = (5, 7, 9, 3, 8, 6, 5, 9, 7, 3, 6, 8, 9, 5, 3, 7, EOS)
SLOW_DRAFTER, SHORT_PREFILL, LATE_DRAFTER = (
    Times(drafter_step=61.0),
    Times(target_prefill=41.0),
    Times(drafter_prefill=311.0, drafter_step=19.1),
)
SCRIPTS = {
    "always right": Script(TRUTH),
    "always wrong": Script(TRUTH, frozenset(range(20))),
    "first token wrong": Script(TRUTH, frozenset({0})),
    "some wrong": Script(TRUTH, frozenset({3, 4, 9})),
    "wrong at the end, slow drafter": Script(TRUTH, frozenset({2, 11, 15, 16}), SLOW_DRAFTER),
    "right, slow drafter": Script(TRUTH, frozenset(), SLOW_DRAFTER),
    "target ready first": Script(TRUTH, frozenset({6}), SHORT_PREFILL),
    "late but quick drafter": Script(TRUTH, frozenset({1, 5, 12}), LATE_DRAFTER),
}


@pytest.fixture(params=SCRIPTS.values(), ids=SCRIPTS)
def script(request: pytest.FixtureRequest) -> Script:
    return request.param  # type: ignore[no-any-return]


def compare(stage: Stage, strategy: str, processes: Callable[[Simulation], Sequence[Process]]) -> None:
    """The same events at the same times; those of one moment in any order."""
    transcript = stage.caption(strategy)
    expected = Simulation(stage.script)
    expected.run(*processes(expected))
    assert transcript.ended == list(TRUTH)
    assert sorted(stage.events) == sorted(expected.events)


def steps(times: Times) -> int:
    """Of the drafter in one of the target."""
    return max(1, round(times.target_step / times.drafter_step))


def test_pearl(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    compare(Stage(monkeypatch, script), "pearl", lambda s: [pseudo_code.pearl(s, gamma=steps(script.times))])


def test_amusd(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    compare(Stage(monkeypatch, script), "amusd", lambda s: pseudo_code.amusd(s, longest=40))


@pytest.mark.parametrize("targets", [1, 2, 4])
def test_dsi(script: Script, targets: int, monkeypatch: pytest.MonkeyPatch) -> None:
    lookahead = math.ceil(script.times.target_step / (targets * script.times.drafter_step))
    stage = Stage(monkeypatch, script, targets)
    compare(stage, "dsi", lambda s: pseudo_code.dsi(s, lookahead, targets, longest=39))


def test_ssd(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Guard, "alpha", 0.8)
    depth = steps(script.times)
    budget = max(2, ssd.NODES // depth)
    compare(
        Stage(monkeypatch, script),
        "ssd",
        lambda s: pseudo_code.ssd(s, depth, lambda drafts: ssd.fan_out(0.8, drafts, budget)),
    )


def test_swiftspec(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch, script, draft_tokens=6)
    compare(stage, "swiftspec", lambda s: pseudo_code.swiftspec(s, swiftspec.WIDTH, swiftspec.NODES, count=6))


@pytest.mark.parametrize("strategy", ["pearl", "amusd", "dsi", "ssd", "swiftspec"])
def test_none_is_vanilla_speculation(strategy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Vanilla speculation takes turns. Here, until all is drafted, the drafter begins passes while the target runs."""
    stage = Stage(monkeypatch, SCRIPTS["some wrong"])
    stage.caption(strategy)
    times = stage.script.times
    passes = [event for event in stage.events if event.what == "T"]
    drafted = max(event.at for event in stage.events if event.what == "D")
    assert len(passes) > 3
    for number, event in enumerate(event for event in passes if event.at < drafted):
        end = event.at + (times.target_step if number else times.target_prefill)
        assert any(event.at <= other.at < end for other in stage.events if other.what == "D"), event


def test_speculation_parallelism_ends_a_caption_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    """DSI's claim: with a drafter that is right, more targets make verification keep up with drafting."""
    ended = []
    for targets in (1, 2, 4):
        stage = Stage(monkeypatch, SCRIPTS["right, slow drafter"], targets)
        stage.caption("dsi")
        ended.append(stage.clock.now)
        monkeypatch.undo()
    assert ended[0] > ended[1]
