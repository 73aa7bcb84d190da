"""Which way of sharing the GPU is the quickest: the whole calibration under each, and what a caption costs by it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from app.decoding.costs import Costs, iid
from models.runtimes.nvidia import GpuError
from models.runtimes.sharing import SERIAL, Sharing

MARGIN = 1.01  # another way must promise more than the noise of a measurement to be taken instead of turns


def choose_sharing(
    ways: Sequence[Sharing],
    use: Callable[[Sharing], None],
    measure: Callable[[], Costs],
    alpha: float,
    tokens: float,
    told: Callable[..., object],
) -> Costs:
    """The costs of the best of `ways`, with its name in `sharing`; it is in use afterwards.

    Turns (`serial`) are always tried, first, and kept unless another way is better by a margin. A way that the GPU or
    its libraries refuse is told and left out. alpha, tokens: acceptance and length of captions, as far as is known.
    told: hears of events with figures, as a structured log does.
    """
    best, best_ms = None, float("inf")
    promised: dict[str, float] = {}
    for way in (SERIAL, *(way for way in ways if way != SERIAL)):
        try:
            use(way)
            costs = replace(measure(), sharing=str(way))
        except GpuError as error:
            told("sharing_refused", way=str(way), reason=str(error))
            continue
        caption_ms = promised[str(way)] = promised_ms(costs, alpha, tokens)
        if best is None or caption_ms * MARGIN < best_ms:
            best, best_ms = costs, caption_ms
    if best is None:
        raise GpuError("gpu.sharing: not even turns could be measured; look at the log")
    use(Sharing.parse(best.sharing))
    told("sharing_chosen", way=best.sharing, promised_ms={way: round(ms, 2) for way, ms in promised.items()})
    return best


def promised_ms(costs: Costs, alpha: float, tokens: float) -> float:
    """A caption by the best placement that needs no draft from before the window closed: what sharing decides.

    A draft made ahead runs alone, whatever the way.
    """
    curve = iid(alpha)
    options = [costs.hiding_ms(curve, tokens, placement) for placement in ("serial", "overlap")]
    return min(*options, costs.autoregressive_ms(tokens))
