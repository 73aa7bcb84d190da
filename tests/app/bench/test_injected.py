"""Injected acceptance: a drafter that agrees as often as it is told to, through the decoder contract."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from app.bench.injected import RANKED, NoisyDecoder, ScriptedDecoder
from app.bench.studies import formula_speedup
from app.decoding.strategies import STRATEGIES, make_strategy
from models.prompts import Prompt
from models.runtimes.contract import Floats
from tests.app.decoding.toy import DRAFTER_PROMPT, EOS, ToyDecoder, make_engine, scene

VOCABULARY = 28
TRUTH = (7, 9, 11, 13, EOS)


def decoder(alpha: float) -> ScriptedDecoder:
    scripted = ScriptedDecoder(ToyDecoder(0, VOCABULARY), Prompt((1,), 2, (3,)), alpha, step_ms=0.0, prefill_ms=0.0)
    scripted.tell(TRUTH, 0)
    return scripted


def test_it_knows_what_the_target_says_next_whatever_the_pass() -> None:
    scripted = decoder(1.0)
    prompt = np.concatenate(
        [scripted.embed(np.array([1])), np.zeros((2, scripted.width)), scripted.embed(np.array([3]))]
    )
    first = scripted.forward(prompt.astype(np.float32), 0, np.array([3]), 1)
    assert first.argmax(-1).tolist() == [7]
    chain = scripted.forward(scripted.embed(np.array([7, 9, 11])), 4, np.arange(3), 1)
    assert chain.argmax(-1).tolist() == [9, 11, 13]
    mask = np.array([[1, 0, 0], [0, 1, 0], [0, 1, 1]], bool)  # a wrong branch beside a right one of two tokens
    tree = scripted.forward_tree(scripted.embed(np.array([5, 7, 9])), np.array([4, 4, 5]), mask, 4, np.array([1, 2]), 1)
    assert tree.argmax(-1).tolist() == [9, 11]
    scripted.compact(4, np.array([1, 2]))
    assert scripted.forward(scripted.embed(np.array([11])), 6, np.array([0]), 1).argmax(-1).tolist() == [13]


def test_the_right_token_has_rank_r_with_probability_alpha_times_one_minus_alpha_to_the_r() -> None:
    scripted, ranks = decoder(0.6), []
    for window in range(2000):
        scripted.tell(TRUTH, window)
        row = scripted.forward(scripted.embed(np.array([7])), 4, np.array([0]), 1)[0]
        ranks.append(int((row > row[9]).sum()))
    shares = [np.mean(np.array(ranks) == rank) for rank in range(3)]
    assert shares == pytest.approx([0.6, 0.24, 0.096], abs=0.03)
    assert RANKED >= 3


def _slowly(call: Callable[..., Floats]) -> Callable[..., Floats]:
    def later(*args: Any) -> Floats:
        time.sleep(0.003)
        return call(*args)

    return later


@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if name != "autoregressive"])
@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_every_strategy_has_the_injected_acceptance_and_stays_exact(
    strategy: str, alpha: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(vocabulary=VOCABULARY, eos_bias=-9.0, sources=("drafter",))
    scripted = ScriptedDecoder(engine.drafter.model.decoder, DRAFTER_PROMPT, alpha, 0.0, 0.0)
    engine.drafter.model.decoder = scripted  # type: ignore[misc]
    for name in (
        "forward",
        "forward_tree",
    ):  # slower than the drafter, as the costs say
        monkeypatch.setattr(engine.model.decoder, name, _slowly(getattr(engine.model.decoder, name)))
    alone, other = make_strategy("autoregressive", engine), make_strategy(strategy, engine)
    hits = trials = 0
    for number in range(4):
        said = alone.run(scene(number))[0].tokens
        scripted.tell((*said, EOS), number)
        transcript, _ = other.run(scene(number))
        assert transcript.tokens == said
        hits, trials = hits + transcript.num_accepted, trials + transcript.trials
    engine.close()
    assert trials > 0
    assert hits == alpha * trials


def test_noise_costs_a_real_pass_and_is_sure_of_random_tokens() -> None:
    plain = ToyDecoder(0, VOCABULARY)
    noisy = NoisyDecoder(plain)
    plain.cache[:] = 0.0
    rows = noisy.embed(np.array([3, 4]))
    rows[0, 1] = 1.0  # the toy's scene
    picks = [int(noisy.forward(rows, 0, np.array([1]), 1)[0].argmax()) for _ in range(50)]
    assert plain.rows_fed == 100
    assert len(set(picks)) > 10


@pytest.mark.parametrize(
    ("alpha", "ratio", "speedup"),
    [(0.5, 0.1, 1.46), (0.7, 0.5, 1.13), (0.9, 0.1, 3.43), (0.9, 1.0, 1.0), (0.8, 0.25, 1.69)],
)
def test_the_formula_of_the_literature(alpha: float, ratio: float, speedup: float) -> None:
    """Leviathan et al., 2023, theorem 3.8 at the best γ; γ = 0 where nothing pays."""
    assert formula_speedup(alpha, ratio) == pytest.approx(speedup, abs=0.005)
