"""The model worker: one thread for the captioner, loaded anew when it keeps failing, and known to be stuck."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import structlog

from app.captioner import Captioner
from app.records import Caption
from app.supervision.budget import RestartBudget
from app.supervision.health import OK, Health
from app.windows import Window

FAILURES = 3  # in a row, after which the models are loaded anew

T = TypeVar("T")

ShowDraft = Callable[[Window, str], None]  # told of a draft that is not verified

log = structlog.get_logger(__name__)


class ServiceError(Exception):
    """The service cannot go on by itself and ends, to be started anew."""


class ModelWorker:
    """Runs the captioner on one thread; one call at a time. `load` makes a captioner and may take its time."""

    def __init__(self, load: Callable[[], Captioner], health: Health, restarts: int) -> None:
        self.budget = RestartBudget(restarts)
        self._load, self._health = load, health
        self._captioner: Captioner | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="target")
        self._busy_since_ns: int | None = None
        self._failures = 0
        self._configured = ""  # the question that the configuration asks
        self._question: str | None = None  # asked instead of it, also after a restart

    @property
    def captioner(self) -> Captioner:
        if self._captioner is None:
            raise ServiceError("the models are not loaded")
        return self._captioner

    @property
    def busy_s(self) -> float:
        """How long the call that runs now has been running; 0 when none does."""
        since_ns = self._busy_since_ns
        return 0.0 if since_ns is None else (time.monotonic_ns() - since_ns) / 1e9

    async def start(self) -> None:
        """Load the models. Raises ModelError."""
        await self._call(self._load_models)
        self._configured = self.captioner.settings.question
        self._health.set("model", OK)

    async def caption(self, window: Window, camera: str, show_draft: ShowDraft) -> Caption:
        """Raises what the captioner raises; after three failures in a row the models are loaded anew first.

        Raises ServiceError when they were loaded anew too often.
        """

        def run() -> Caption:
            self.captioner.on_draft = show_draft
            return self.captioner.caption(window, camera)

        try:
            caption = await self._call(run)
        except Exception as error:
            await self._failed(error)
            raise
        self._failures = 0
        self._health.set("model", OK)
        return caption

    async def ahead(
        self, window: Window, camera: str, show_draft: ShowDraft, preempted: Callable[[], bool] = lambda: False
    ) -> None:
        """Do what can be done of a window that has not closed, until `preempted`; a failure costs no more than that.

        `show_draft` and `preempted` are called on the models' threads.
        """

        def run() -> None:
            self.captioner.on_draft = show_draft
            self.captioner.ahead(window, camera, preempted)

        try:
            await self._call(run)
        except Exception as error:
            log.warning("ahead_failed", window=window.index, error=f"{type(error).__name__}: {error}")

    async def answer(self, window: Window, question: str) -> Caption:
        """The caption of a window under another question. Raises ModelError when the question is too long."""

        def run() -> Caption:
            captioner, usual = self.captioner, self.captioner.settings.question
            captioner.on_draft = None  # the answer is for who asked
            captioner.set_question(question)
            try:
                return captioner.caption(window)
            finally:
                captioner.set_question(usual)

        return await self._call(run)

    async def set_question(self, question: str | None) -> str:
        """Put another question from now on (None: the configured one); the question. Raises ModelError."""
        wanted = self._configured if question is None else question
        await self._call(lambda: self.captioner.set_question(wanted))
        self._question = question
        return wanted

    async def close(self, timeout_s: float) -> bool:
        """Wait for what runs and end the thread; False when it did not end in time."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        deadline = time.monotonic() + timeout_s
        while self._busy_since_ns is not None and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        if self._busy_since_ns is not None:
            return False
        if self._captioner is not None:
            await asyncio.to_thread(self._captioner.close)
        return True

    async def _call(self, function: Callable[[], T]) -> T:
        """On the worker's thread. Cancelled meanwhile, the call goes on, and `close` waits for it."""

        def run() -> T:
            self._busy_since_ns = time.monotonic_ns()
            try:
                return function()
            finally:
                self._busy_since_ns = None

        return await asyncio.get_running_loop().run_in_executor(self._thread, run)

    async def _failed(self, error: Exception) -> None:
        self._failures += 1
        log.error("caption_failed", in_a_row=self._failures, error=f"{type(error).__name__}: {error}")
        self._health.set("model", "failing", f"{type(error).__name__}: {error}")
        if self._failures < FAILURES:
            return
        delay_s = self.budget.delay_s()
        if self.budget.spent:
            raise ServiceError(f"the models fail whatever is tried; the last time: {error}") from error
        self._health.set("model", "restarting", f"loaded anew after {self._failures} failures, the last: {error}")
        await asyncio.sleep(delay_s)
        try:
            await self._call(self._reload)
        except Exception as again:
            raise ServiceError(f"the models cannot be loaded anew: {again}") from again
        self._failures = 0

    def _reload(self) -> None:
        if self._captioner is not None:
            self._captioner.close()
        self._load_models()
        if self._question is not None:
            self.captioner.set_question(self._question)

    def _load_models(self) -> None:
        """What is there then stays: the garbage collector looks through it now, and not while windows come.

        A full collection of all that the libraries have made stops every thread for some 40 ms.
        """
        gc.unfreeze()
        self._captioner = self._load()
        gc.collect()
        gc.freeze()
