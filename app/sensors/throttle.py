"""Leaves frames out evenly, so that no more than so many a second are handed on."""

from __future__ import annotations


class Throttle:
    """Of frames that come quicker than `fps` (None: any number), every second, third, … passes; the others never do.

    A tenth of the period is forgiven: a camera of just this rate would lose frames to its jitter otherwise. A clock
    that was set back costs none.
    """

    def __init__(self, fps: float | None) -> None:
        self._period_ns = round(1e9 / fps) if fps else 0
        self._due_ns = 0

    def passes(self, now_ns: int) -> bool:
        early_ns = self._due_ns - now_ns
        if self._period_ns // 10 < early_ns <= 2 * self._period_ns:  # earlier than that is another clock
            return False
        in_step = -self._period_ns < early_ns <= self._period_ns // 10
        self._due_ns = (self._due_ns if in_step else now_ns) + self._period_ns
        return True
