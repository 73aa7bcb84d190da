"""PyTorch's streams for each way of sharing the GPU, their events, and its error of a full GPU as ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from models.runtimes.nvidia import GpuError, OutOfGpuMemory
from models.runtimes.sharing import Sharing


def timing_event() -> Any:
    """An event that keeps its time."""
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


class StreamEvents:
    """PyTorch's events of one stream."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def record(self) -> Any:
        event = timing_event()
        with _asked_of_the_gpu():
            event.record(self._stream)
        return event

    def wait(self, event: Any) -> None:
        with _asked_of_the_gpu():
            event.synchronize()

    def elapsed_ms(self, first: Any, second: Any) -> float:
        with _asked_of_the_gpu():
            return float(first.elapsed_time(second))


@contextmanager
def _asked_of_the_gpu() -> Iterator[None]:
    """What the GPU refuses of events. Raises GpuError."""
    try:
        yield
    except RuntimeError as error:
        raise GpuError(f"CUDA event: {' '.join(str(error).split())[:160]}") from None


@contextmanager
def memory_told(what: str) -> Iterator[None]:
    """PyTorch's error of a full GPU as ours. Raises OutOfGpuMemory."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        said = str(error).split(". ")[0]
        raise OutOfGpuMemory(
            f"{what}: the GPU's memory is full ({said}); `event-captioner models plan` says what fits"
        ) from None


def make_stream(device: torch.device, way: Sharing) -> tuple[Any, Any]:
    """A green context, where the way has one, and a stream. Raises GpuError."""
    if way.mode != "green_context":
        # PyTorch clamps a priority to what the GPU knows.
        return None, torch.cuda.Stream(device, priority=-5 if way.mode == "priority" else 0)  # type: ignore[no-untyped-call]
    green = getattr(torch.cuda, "GreenContext", None)
    if green is None or not hasattr(green, "Stream"):
        raise GpuError(f"gpu.sharing: {way}: torch {torch.__version__} has no streams in green contexts; install 2.11")
    try:
        part = green.create(num_sms=way.size)
        return part, part.Stream()
    except RuntimeError as error:
        raise GpuError(f"gpu.sharing: {way}: {' '.join(str(error).split())[:160]}; choose streams") from None
