"""Around a run of processes: a folder that is kept when the run fails, an end that leaves no process, and progress."""

from __future__ import annotations

import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def run_folder(prefix: str) -> Iterator[Path]:
    """A folder for the run's files; an error leaves it there, because its logs say why.

    SIGTERM and SIGHUP end the run as Ctrl-C does, with KeyboardInterrupt, and only the first of them: the second must
    not end the killing of the processes that the run has started. What is ignored (nohup) stays ignored.
    """
    folder = Path(tempfile.mkdtemp(prefix=prefix))

    def interrupt(number: int, frame: object) -> None:
        for ending in ENDINGS:
            signal.signal(ending, signal.SIG_IGN)
        raise KeyboardInterrupt

    heeded = [ending for ending in ENDINGS if signal.getsignal(ending) is not signal.SIG_IGN]
    before = {ending: signal.signal(ending, interrupt) for ending in heeded}
    try:
        yield folder
    except KeyboardInterrupt:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    else:
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        for ending, handler in before.items():
            signal.signal(ending, handler)


@contextmanager
def progress(every_s: float = 0.0) -> Iterator[Callable[[str], None]]:
    """Takes what is being done: one line of a terminal; elsewhere a line each, at most one in `every_s`."""
    from rich.console import Console

    console, told_s = Console(stderr=True), -every_s
    if console.is_terminal:
        with console.status("starting …") as status:
            yield status.update
        return

    def tell(text: str) -> None:
        nonlocal told_s
        if (now_s := time.monotonic()) - told_s >= every_s:
            told_s = now_s
            console.print(text, highlight=False)

    yield tell
