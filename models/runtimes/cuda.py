"""Streams, graphs and memory of one GPU, through cuda-python: what the TensorRT runtime stands on. No torch."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from models.runtimes.nvidia import check, cuda_runtime


class Stream:
    """One CUDA stream of its own, and the graphs captured on it: a graph belongs to the stream that replays it."""

    def __init__(self) -> None:
        self._cuda = cuda_runtime()
        self.handle: Any = check(self._cuda.cudaStreamCreateWithFlags(self._cuda.cudaStreamNonBlocking), "CUDA stream")

    def wait(self) -> None:
        """Until everything enqueued is done; this is where an error of the GPU appears. Raises GpuError."""
        check(self._cuda.cudaStreamSynchronize(self.handle), "GPU pass")

    def copy(self, to: int, source: int, size: int) -> None:
        """`size` bytes between two addresses, of whichever memory, in the stream's order."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDefault
        check(self._cuda.cudaMemcpyAsync(to, source, size, kind, self.handle), "GPU copy")

    def event(self) -> Any:
        """A mark behind what is enqueued so far, for `wait_for` and `milliseconds`."""
        event = check(self._cuda.cudaEventCreate(), "CUDA event")
        check(self._cuda.cudaEventRecord(event, self.handle), "CUDA event")
        return event

    def wait_for(self, event: Any) -> None:
        """Until the stream has come to a mark, which is then forgotten."""
        check(self._cuda.cudaEventSynchronize(event), "GPU pass")
        check(self._cuda.cudaEventDestroy(event), "CUDA event")

    def milliseconds(self, begin: Any, end: Any) -> float:
        """GPU time between two marks that were reached."""
        return float(check(self._cuda.cudaEventElapsedTime(begin, end), "CUDA event"))

    def capture(self, work: Callable[[], None]) -> Any:
        """What `work` enqueues, as a graph for `replay`; nothing runs."""
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        check(self._cuda.cudaStreamBeginCapture(self.handle, mode), "CUDA graph")
        try:
            work()
        finally:
            graph = check(self._cuda.cudaStreamEndCapture(self.handle), "CUDA graph")
        return check(self._cuda.cudaGraphInstantiate(graph, 0), "CUDA graph")

    def replay(self, graph: Any) -> None:
        check(self._cuda.cudaGraphLaunch(graph, self.handle), "CUDA graph")


class DeviceArray:
    """GPU memory of a shape and type, at one address for as long as it lives; zero at first."""

    def __init__(self, shape: Sequence[int], item_bytes: int, what: str) -> None:
        self._cuda = cuda_runtime()
        self.bytes = max(256, int(np.prod(shape)) * item_bytes)
        self.address = int(check(self._cuda.cudaMalloc(self.bytes), f"{what} ({self.bytes / 1e6:,.0f} MB)"))
        check(self._cuda.cudaMemset(self.address, 0, self.bytes), what)

    def __del__(self) -> None:
        if hasattr(self, "address"):
            self._cuda.cudaFree(self.address)


class PinnedArray:
    """Host memory that the GPU copies from and to without a detour, as a NumPy array."""

    def __init__(self, shape: Sequence[int], dtype: DTypeLike, what: str) -> None:
        self._cuda = cuda_runtime()
        kind = np.dtype(dtype)
        size = max(1, int(np.prod(shape)) * kind.itemsize)
        self.address = int(check(self._cuda.cudaMallocHost(size), f"{what} (pinned)"))
        held = (ctypes.c_uint8 * size).from_address(self.address)
        self.values: NDArray[Any] = np.ctypeslib.as_array(held).view(kind).reshape(shape)

    def __del__(self) -> None:
        if hasattr(self, "address"):
            self._cuda.cudaFreeHost(self.address)
