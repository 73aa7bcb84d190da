"""What the broker refuses us, until it no longer does: told once in the log, and for as long as it lasts."""

from __future__ import annotations

import structlog

_MOST = 32  # of which it is told; who sends commands chooses the topics of some answers

_log = structlog.get_logger(__name__)


class Refusals:
    """By what was refused ("messages on TOPIC", "the subscription to TOPIC"), the broker's reason."""

    def __init__(self) -> None:
        self._reasons: dict[str, str] = {}

    def refused(self, what: str, reason: str) -> None:
        if what not in self._reasons and len(self._reasons) < _MOST:
            _log.warning("broker_refuses", what=what, reason=reason)
            self._reasons[what] = reason

    def accepted(self, what: str) -> None:
        self._reasons.pop(what, None)

    @property
    def text(self) -> str | None:
        """One line for people; None when nothing is refused."""
        if not self._reasons:
            return None
        what, reason = next(iter(self._reasons.items()))
        more = len(self._reasons) - 1
        return f"refuses {what}{f' and {more} more' if more else ''}: {reason}"
