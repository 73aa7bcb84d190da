"""Child processes that end when their parent does, however that dies (Linux; elsewhere nothing is asked for)."""

from __future__ import annotations

import ctypes
import sys

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded here: a forked child should load nothing


def signalled_at_orphaning(number: int) -> None:
    """In the child (`preexec_fn`): get this signal when the thread that started the child ends, prctl(2)."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, int(number))
