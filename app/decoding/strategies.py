"""The strategies by name, in the order of `names.StrategyName`."""

from __future__ import annotations

from collections.abc import Callable

from app.decoding.amusd import Amusd
from app.decoding.autoregressive import Autoregressive
from app.decoding.dsi import Dsi
from app.decoding.engine import Engine, Strategy
from app.decoding.pearl import Pearl
from app.decoding.prefill_hiding import PrefillHiding
from app.decoding.speculative import Speculative
from app.decoding.ssd import Ssd
from app.decoding.swiftspec import SwiftSpec

STRATEGIES: dict[str, Callable[[Engine], Strategy]] = {
    Autoregressive.name: Autoregressive,
    Speculative.name: Speculative,
    PrefillHiding.name: PrefillHiding,
    Pearl.name: Pearl,
    Amusd.name: Amusd,
    Dsi.name: Dsi,
    Ssd.name: Ssd,
    SwiftSpec.name: SwiftSpec,
}


def make_strategy(name: str, engine: Engine) -> Strategy:
    """The strategy `name` on `engine`. Raises ValueError for a name nobody knows."""
    if name not in STRATEGIES:
        raise ValueError(f"strategy: {name!r} is not one of {', '.join(STRATEGIES)}")
    return STRATEGIES[name](engine)
