"""A discrete-event clock: processes ask for passes on devices; passes at once on one device slow each other down."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field

Lane = str  # "drafter" or "target"
Kind = str  # "prefill" (bound by arithmetic: encode, prefill) or "step" (bound by memory: decode, draft, verify)
Slowdown = Mapping[tuple[Lane, Kind, Kind], float]  # (lane, its kind, the other's kind) -> times slower, at least 1


@dataclass(eq=False, slots=True)
class Pass:
    """`ms` of work, as it would take alone on its device."""

    lane: Lane
    device: int
    kind: Kind
    ms: float


@dataclass(eq=False, slots=True)
class Signal:
    """Something a process can wait for; `set` wakes everybody who does, once."""

    waiting: list[Process] = field(default_factory=list)


Process = Generator[Pass | Signal, None, None]  # yields what it waits for


class Clock:
    """Simulated milliseconds. Processes are generators; a caption ends when its main process does."""

    def __init__(self, slowdown: Slowdown) -> None:
        self.now = 0.0
        self.slowdown = slowdown
        self._ready: deque[Process] = deque()
        self._running: list[tuple[Pass, Process]] = []

    def start(self, process: Process) -> None:
        """Run `process` beside the others from now on."""
        self._ready.append(process)

    def set(self, signal: Signal) -> None:
        """Wake whoever waits for `signal`."""
        self._ready.extend(signal.waiting)
        signal.waiting.clear()

    def run(self, main: Process) -> float:
        """Milliseconds until `main` ends; what still runs then is dropped. Raises RuntimeError when all wait."""
        self.start(main)
        while True:
            while self._ready:
                process = self._ready.popleft()
                try:
                    wanted = next(process)
                except StopIteration:
                    if process is main:
                        return self.now
                    continue
                if isinstance(wanted, Signal):
                    wanted.waiting.append(process)
                else:
                    self._running.append((wanted, process))
            if not self._running:
                raise RuntimeError("the schedule is stuck: every process waits for another")
            self._advance()

    def _advance(self) -> None:
        """To the end of the pass that ends first, at the speeds that the passes leave each other."""
        slow = [self._slow(work) for work, _ in self._running]
        elapsed = min(work.ms * factor for (work, _), factor in zip(self._running, slow, strict=True))
        self.now += elapsed
        still: list[tuple[Pass, Process]] = []
        for (work, process), factor in zip(self._running, slow, strict=True):
            work.ms -= elapsed / factor
            if work.ms > 1e-9:
                still.append((work, process))
            else:
                self._ready.append(process)
        self._running = still

    def _slow(self, work: Pass) -> float:
        beside = [other for other, _ in self._running if other is not work and other.device == work.device]
        return max((self.slowdown.get((work.lane, work.kind, other.kind), 1.0) for other in beside), default=1.0)
