"""How often a part may be started again, and how long to wait before the next try."""

from __future__ import annotations

import random
import time
from collections import deque

SPAN_S = 600.0  # restarts are counted over this long
FIRST_S, LONGEST_S = 0.2, 10.0
LATELY_S = 30.0  # restarts this close together are waited longer for
SLOW_S = 60.0  # between tries once the budget is spent


class RestartBudget:
    """`most` restarts in ten minutes; `spent` tells that the last one asked for was over it."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.total = 0
        self.spent = False
        self._at: deque[float] = deque()

    def delay_s(self) -> float:
        """Count one restart and say how long to wait before it: doubling, with jitter; a minute when spent."""
        now_s = time.monotonic()
        while self._at and now_s - self._at[0] > SPAN_S:
            self._at.popleft()
        self.total += 1
        self.spent = len(self._at) >= self.most
        if self.spent:
            return SLOW_S
        self._at.append(now_s)
        lately = sum(now_s - at < LATELY_S for at in self._at)  # a part that held a while is tried at once
        return min(LONGEST_S, FIRST_S * 2.0 ** (lately - 1)) * random.uniform(0.75, 1.0)
