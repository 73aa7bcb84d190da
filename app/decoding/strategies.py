"""The strategies by name."""

from __future__ import annotations

from app.decoding.autoregressive import Autoregressive
from app.decoding.engine import Engine, Strategy
from app.decoding.prefill_hiding import PrefillHiding
from app.decoding.speculative import Speculative

STRATEGIES: dict[str, type[Autoregressive] | type[Speculative] | type[PrefillHiding]] = {
    strategy.name: strategy for strategy in (Autoregressive, Speculative, PrefillHiding)
}


def make_strategy(name: str, engine: Engine) -> Strategy:
    """The strategy `name` on `engine`. Raises ValueError for a name nobody knows."""
    if name not in STRATEGIES:
        raise ValueError(f"strategy: {name!r} is not one of {', '.join(STRATEGIES)}")
    return STRATEGIES[name](engine)
