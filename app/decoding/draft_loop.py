"""A drafter that runs free on its worker: one token a step behind a text, rolled back between two steps."""

from __future__ import annotations

from collections.abc import Sequence

from app.decoding.engine import Engine, Job
from app.decoding.parallel import PATIENCE_S, Companion
from app.decoding.transcript import Transcript


class DraftLoop(Companion):
    """Extends its text, the verified tokens and the drafts behind them, up to a length that the strategy sets.

    A rollback is a request: the loop acknowledges it after the step it is in, whose token is then dropped.
    """

    def __init__(self, engine: Engine, job: Job, length: int) -> None:
        super().__init__(engine, job)
        self._text: list[int] = []
        self._length = length
        self._request: list[int] | None = None  # the text to go on from
        self._exhausted = False  # end-of-sequence, a full cache or a lost drafter: nothing more behind this text
        self._free = 0  # length up to which the text was drafted while the target prefilled

    def roll_back(self, text: Sequence[int]) -> bool:
        """Request to go on from `text` where the drafts part from it; whether they do."""
        with self.changed:
            current = self._text if self._request is None else self._request
            if current[: len(text)] == list(text):
                return False
            self._request, self._free = list(text), 0
            self.changed.notify_all()
            return True

    def extend(self, length: int) -> None:
        """Draft until the text has `length` tokens."""
        with self.changed:
            self._length = length
            self.changed.notify_all()

    def drafts(self, text: Sequence[int]) -> list[int]:
        """What is drafted behind `text` by now."""
        with self.changed:
            return self._text[len(text) :] if self._request is None and self._text[: len(text)] == list(text) else []

    def end_prefill(self) -> None:
        """The target's prefill has ended: what is drafted by now cost the caption no time."""
        with self.changed:
            self._free = len(self._text)

    def hidden(self, text: Sequence[int]) -> int:
        """How many of the drafts behind `text` cost the caption no time."""
        return max(0, self._free - len(text))

    def count_foreseen(self, text: Sequence[int], transcript: Transcript) -> None:
        """Count the draft behind `text`, verified tokens and drafts, that the target's own last token has judged."""
        said = transcript.ended
        if len(said) == len(text) + 1 and said[:-1] == list(text) and (ahead := self.drafts(text)):
            transcript.count_foreseen(ahead, hidden=self.hidden(text) > 0)

    def wait(self, length: int) -> None:
        """Until the text has `length` tokens, or gets no longer."""
        self.until(lambda: self._request is None and (len(self._text) >= length or self.at_end))

    @property
    def at_end(self) -> bool:
        """No more drafts come behind this text, unless the strategy says so."""
        with self.changed:
            return self._request is None and (self._exhausted or len(self._text) >= self._length)

    def work(self) -> None:
        while self._next():
            token: list[int] = []
            self.drafter.draft(token, 1, None, self.job.recorder)
            with self.changed:
                if self._request is None:
                    self._text += token
                    self._exhausted = token in ([], [self.drafter.model.eos_id])
                    self.changed.notify_all()

    def _next(self) -> bool:
        """Acknowledge a rollback, wait for room; False when the caption is over."""
        with self.changed:
            while not self.stopped:
                if self._request is not None:
                    self._text, self._request, self._exhausted = self._request, None, False
                    self.drafter.synchronise(self._text)
                    self.changed.notify_all()
                if not self._exhausted and len(self._text) < self._length:
                    return True
                if not self.changed.wait(PATIENCE_S):
                    return False
        return False
