"""Threads in virtual time: passes take scripted milliseconds, and what runs next is never left to the machine.

One thread runs at a time. When all wait, time jumps to the earliest end of a pass or time-out. So an interleaving is
exactly repeatable, and a wait for something that cannot come ends with its time-out at once.
"""

from __future__ import annotations

import heapq
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

REAL_BOUND_S = 60.0  # of any real wait, should the code under test never rest


class _Turn:
    """One wait of one thread."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.over = False

    def wait(self) -> None:
        assert self.event.wait(REAL_BOUND_S), "a thread was never woken"


class VirtualTime:
    """The clock, and whose turn it is; the test's own thread has the first turn."""

    def __init__(self) -> None:
        self.now = 0.0
        self._lock = threading.Lock()
        self._busy = True
        self._order = 0
        self._ready: deque[_Turn] = deque()
        self._asleep: list[tuple[float, int, _Turn]] = []

    def work(self, duration: float) -> None:
        """The calling thread is in a pass of so many virtual milliseconds."""
        self.rest_until(self.now + duration).wait()

    def rest_until(self, time: float) -> _Turn:
        """Give up the turn; the thread must then `wait` for its next one, which comes at `time` or when it is woken."""
        turn = _Turn()
        with self._lock:
            self._order += 1
            heapq.heappush(self._asleep, (time, self._order, turn))
        self.rest()
        return turn

    def rest(self) -> None:
        """Give up the turn; who is ready goes on, or else time does."""
        with self._lock:
            self._busy = False
            self._pass_on()

    def wake(self, turn: _Turn) -> None:
        """Let a waiting thread go on when the others rest."""
        with self._lock:
            if not turn.over:
                turn.over = True
                self._ready.append(turn)
                self._pass_on()

    def _pass_on(self) -> None:
        while not self._busy and not self._ready and self._asleep:
            time, _, turn = heapq.heappop(self._asleep)
            if not turn.over:
                self.now, turn.over = time, True
                self._ready.append(turn)
        if not self._busy and self._ready:
            self._busy = True
            self._ready.popleft().event.set()

    def condition(self) -> VirtualCondition:
        """In place of `threading.Condition`."""
        return VirtualCondition(self)

    def pool(self, *_: Any, thread_name_prefix: str = "") -> VirtualPool:
        """In place of `ThreadPoolExecutor`."""
        return VirtualPool(self, thread_name_prefix)


class VirtualCondition:
    """A condition whose time-outs are virtual."""

    def __init__(self, clock: VirtualTime) -> None:
        self._clock = clock
        self._depth = threading.RLock()
        self._waiting: list[_Turn] = []

    def __enter__(self) -> None:
        self._depth.acquire()

    def __exit__(self, *_: object) -> None:
        self._depth.release()

    def notify_all(self) -> None:
        waiting, self._waiting = self._waiting, []
        for turn in waiting:
            self._clock.wake(turn)

    def wait(self, timeout: float) -> bool:
        turn = self._clock.rest_until(self._clock.now + timeout * 1e3)
        self._waiting.append(turn)
        held = self._depth._release_save()  # type: ignore[attr-defined]
        turn.wait()
        self._depth._acquire_restore(held)  # type: ignore[attr-defined]
        if turn not in self._waiting:
            return True
        self._waiting.remove(turn)
        return False

    def wait_for(self, predicate: Callable[[], Any], timeout: float) -> Any:
        until = self._clock.now + timeout * 1e3
        while not (result := predicate()):
            if self._clock.now >= until:
                return result
            self.wait((until - self._clock.now) / 1e3)
        return result


class VirtualFuture:
    """What a job on a `VirtualPool` comes to."""

    def __init__(self, clock: VirtualTime) -> None:
        self._changed = VirtualCondition(clock)
        self._done = False
        self._value: Any = None
        self._error: BaseException | None = None

    def run(self, work: Callable[[], Any]) -> None:
        try:
            self._value = work()
        except BaseException as error:
            self._error = error
        with self._changed:
            self._done = True
            self._changed.notify_all()

    def result(self, timeout: float = REAL_BOUND_S) -> Any:
        with self._changed:
            if not self._changed.wait_for(lambda: self._done, timeout):
                raise TimeoutError
        if self._error:
            raise self._error
        return self._value


class VirtualPool:
    """A thread for each job, so that none is left over."""

    def __init__(self, clock: VirtualTime, name: str) -> None:
        self._clock = clock
        self._name = name

    def submit(self, work: Callable[..., Any], *args: Any) -> VirtualFuture:
        future, turn = VirtualFuture(self._clock), _Turn()

        def run() -> None:
            turn.wait()
            future.run(lambda: work(*args))
            self._clock.rest()

        threading.Thread(target=run, name=self._name, daemon=True).start()
        self._clock.wake(turn)
        return future

    def shutdown(self, **_: Any) -> None:
        """Nothing is kept."""
