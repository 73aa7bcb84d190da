"""How every part is, and what that comes to: one state with its reasons."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

OK = "online"


@dataclass(frozen=True, slots=True)
class Part:
    """One part: `online`, or what is wrong with it, for people; since when (monotonic ns)."""

    state: str
    reason: str | None = None
    since_ns: int = field(default_factory=time.monotonic_ns, compare=False)

    @property
    def ok(self) -> bool:
        return self.state == OK


class Health:
    """The parts by name (`model`, `publisher`, `camera front events`, …) and who wants to hear of a change."""

    def __init__(self) -> None:
        self.parts: dict[str, Part] = {}
        self.starting = True
        self.stopping = False
        self.paused = False
        self.on_change: Callable[[], None] = lambda: None

    def set(self, name: str, state: str, reason: str | None = None) -> None:
        """Tell how a part is; nothing happens when it was so already."""
        part = Part(state, reason)
        if self.parts.get(name) != part:
            self.parts[name] = part
            self.on_change()

    def started(self) -> None:
        self.starting = False
        self.on_change()

    def pause(self, paused: bool) -> None:
        self.paused = paused
        self.on_change()

    @property
    def state(self) -> str:
        """`starting`, `online`, `degraded`; degraded means that captioning goes on as well as it can."""
        if self.starting:
            return "starting"
        return OK if all(part.ok for part in self.parts.values()) else "degraded"

    @property
    def reason(self) -> str | None:
        """What is wrong, part by part; None when nothing is."""
        wrong = [f"{name}: {part.reason or part.state}" for name, part in self.parts.items() if not part.ok]
        if self.paused:
            wrong.insert(0, "paused by command")
        return "; ".join(wrong) or None
