"""Leaves frames out evenly, so that no more than so many a second are handed on."""

from __future__ import annotations


class Throttle:
    """Of frames that come quicker than `fps` (None: any number), every second, third, … passes; the others never do.

    A tenth of the period is forgiven: a camera of just this rate would lose frames to its jitter otherwise.
    """

    def __init__(self, fps: float | None) -> None:
        self._period_ns = round(1e9 / fps) if fps else 0
        self._due_ns = 0

    def passes(self, now_ns: int) -> bool:
        if now_ns < self._due_ns - self._period_ns // 10:
            return False
        behind = now_ns - self._due_ns >= self._period_ns
        self._due_ns = (now_ns if behind else self._due_ns) + self._period_ns
        return True
