"""How two models share one GPU: by turns, on streams of their own, or with a part of the GPU for one of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Condition
from typing import Literal

from models.errors import ModelError

Mode = Literal["serial", "streams", "priority", "green_context", "chunked"]
_LOOK_AGAIN_S = 60.0
CHUNK = 256  # rows of a prefill's part with `chunked`: such a part still keeps a large GPU busy


@dataclass(frozen=True, slots=True)
class Sharing:
    """One way. `size`: multiprocessors of the drafter with `green_context`, rows of a part with `chunked`; else 0."""

    mode: Mode
    size: int = 0

    @classmethod
    def parse(cls, text: str) -> Sharing:
        """`serial`, `streams`, `priority`, `chunked`, `chunked(512)` or `green_context(32)`. Raises ModelError."""
        found = re.fullmatch(r"(serial|streams|priority|chunked)|(green_context|chunked)\(([1-9]\d{0,4})\)", text)
        if not found:
            raise ModelError(
                f"gpu.sharing: {text!r} is none of serial, streams, priority, chunked, chunked(ROWS) and "
                "green_context(MULTIPROCESSORS)"
            )
        alone, sized, size = found.groups()
        mode: Mode = alone or sized  # type: ignore[assignment]
        return cls(mode, int(size) if size else CHUNK if mode == "chunked" else 0)

    def __str__(self) -> str:
        return f"{self.mode}({self.size})" if self.size else self.mode

    @property
    def by_turns(self) -> bool:
        """Whether passes of the two models never run at once."""
        return self.mode in ("serial", "chunked")


SERIAL, STREAMS = Sharing("serial"), Sharing("streams")
EVERY_WAY = (  # that a calibration tries where none is configured
    SERIAL,
    STREAMS,
    Sharing("priority"),
    Sharing("chunked", CHUNK),
    *(Sharing("green_context", count) for count in (16, 32, 48, 64)),
)


class Turns:
    """Passes of two models, one at a time and in the order in which they were asked for.

    A plain lock is not enough: who lets go of it and asks again at once mostly gets it again, and the other one waits
    for ever.
    """

    def __init__(self) -> None:
        self._changed = Condition()
        self._given = self._now = 0  # tickets

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait until everyone who asked before has had a turn."""
        with self._changed:
            ticket, self._given = self._given, self._given + 1
            while self._now != ticket:
                self._changed.wait(_LOOK_AGAIN_S)
        try:
            yield
        finally:
            with self._changed:
                self._now += 1
                self._changed.notify_all()
