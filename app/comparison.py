"""The same windows once more with the target alone: what the drafter saved, measured rather than claimed."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

from app.captioner import Captioner
from app.records import Caption
from app.telemetry.summary import Report, Summary


@dataclass(frozen=True, slots=True)
class Comparison:
    """The target alone on windows that were captioned before, and how many captions came out the same."""

    alone: Report
    windows: int
    identical: int  # token for token


def target_alone(captioner: Captioner, captions: Iterable[Caption]) -> Comparison:
    """Caption the windows of `captions` again, one after the other on an idle machine, by the target alone.

    Leaves the captioner with the strategy `autoregressive`.
    """
    captions = list(captions)
    captioner.use("autoregressive")
    summary, identical = Summary(), 0
    for before in captions[:1]:
        captioner.caption(before.window)  # not counted: the first pass of a new schedule warms up
    for before in captions:
        again = captioner.caption(replace(before.window, closed_ns=time.monotonic_ns()))
        summary.add(again)
        identical += again.token_ids == before.token_ids
    return Comparison(summary.report(), len(captions), identical)
