"""The same windows once more with the target alone: what the drafter saved, measured rather than claimed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from app.captioner import Captioner
from app.config import Config
from app.pipeline import run_pipeline
from app.records import Caption, Dropped
from app.sensors.contract import RecordedSource
from app.session import make_windower
from app.telemetry.summary import Report, Summary
from app.windows import Window


@dataclass(frozen=True, slots=True)
class Comparison:
    """The target alone on windows that were captioned before, and how many captions came out the same."""

    alone: Report
    windows: int
    identical: int  # token for token


class _Again:
    """A sink that compares each caption with what was said of its window before."""

    def __init__(self, said: Mapping[int, tuple[int, ...]]) -> None:
        self._said, self._summary = said, Summary()
        self._windows = self._identical = 0

    def on_caption(self, caption: Caption) -> None:
        self._summary.add(caption)
        if caption.window.index in self._said:
            self._windows += 1
            self._identical += self._said[caption.window.index] == caption.token_ids

    def on_dropped(self, dropped: Dropped) -> None:
        self._summary.drop(dropped)

    def on_draft(self, window: Window, text: str) -> None:
        """The target alone drafts nothing."""

    def comparison(self) -> Comparison:
        return Comparison(self._summary.report(), self._windows, self._identical)


async def target_alone(
    config: Config, source: RecordedSource, captioner: Captioner, said: Mapping[int, tuple[int, ...]]
) -> Comparison:
    """Play the recording again, at the same pace, with the target alone; `said` are the tokens by window index.

    The pace matters: an idle machine with warm caches would flatter the target. Leaves the captioner `autoregressive`.
    """
    captioner.use("autoregressive")
    again = _Again(said)
    await run_pipeline(source, make_windower(config, captioner, source.info), captioner, [again], lossless=True)
    return again.comparison()
