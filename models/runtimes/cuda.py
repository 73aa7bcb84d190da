"""Streams, graphs and memory of one GPU, through cuda-python: what the TensorRT runtime stands on. No torch."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from models.runtimes.green import GreenContext
from models.runtimes.nvidia import GpuError, check, cuda_runtime
from models.runtimes.sharing import STREAMS, Sharing


class Stream:
    """One CUDA stream of its own, and the graphs captured on it: a graph belongs to the stream that replays it."""

    def __init__(self, way: Sharing = STREAMS) -> None:
        """`way`: with `priority` its kernels are started before those of other streams, where both wait (nothing is
        interrupted); with `green_context(n)` they run on n multiprocessors alone. Raises GpuError."""
        self._cuda = cuda_runtime()
        kind, most = self._cuda.cudaStreamNonBlocking, 0
        if way.mode == "priority":
            _, most = check(self._cuda.cudaDeviceGetStreamPriorityRange(), "CUDA stream")
        self._part = GreenContext(way.size) if way.mode == "green_context" else None
        if self._part is None:
            self.handle: Any = check(self._cuda.cudaStreamCreateWithPriority(kind, most), "CUDA stream")
        else:
            self.handle = self._part.stream()

    def __del__(self) -> None:
        if hasattr(self, "handle"):
            self._cuda.cudaStreamDestroy(self.handle)

    def wait(self) -> None:
        """Until everything enqueued is done; this is where an error of the GPU appears. Raises GpuError."""
        check(self._cuda.cudaStreamSynchronize(self.handle), "GPU pass")

    def copy(self, to: int, source: int, size: int) -> None:
        """`size` bytes between two addresses, of whichever memory, in the stream's order."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDefault
        check(self._cuda.cudaMemcpyAsync(to, source, size, kind, self.handle), "GPU copy")

    def copy_rows(self, to: int, source: int, pitch: int, size: int, count: int) -> None:
        """`size` bytes at each of `count` places that are `pitch` bytes apart, as one copy on the GPU."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        check(self._cuda.cudaMemcpy2DAsync(to, pitch, source, pitch, size, count, kind, self.handle), "GPU copy")

    def mark(self) -> Mark:
        """A mark behind what is enqueued so far."""
        return Mark(self._cuda, self.handle)

    def capture(self, work: Callable[[], None]) -> Graph:
        """What `work` enqueues, as a graph for `replay`; nothing runs. Raises what `work` raises, and GpuError."""
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        check(self._cuda.cudaStreamBeginCapture(self.handle, mode), "CUDA graph")
        try:
            work()
        except BaseException:
            with contextlib.suppress(GpuError):  # the capture has failed with the work; the work's error is the cause
                graph = check(self._cuda.cudaStreamEndCapture(self.handle), "CUDA graph")
                self._cuda.cudaGraphDestroy(graph)
            raise
        return Graph(self._cuda, check(self._cuda.cudaStreamEndCapture(self.handle), "CUDA graph"))

    def replay(self, graph: Graph) -> None:
        """Enqueue what was captured."""
        check(self._cuda.cudaGraphLaunch(graph.handle, self.handle), "CUDA graph")


class Mark:
    """A place in a stream's order."""

    def __init__(self, cuda: Any, stream: Any) -> None:
        self._cuda = cuda
        self.handle: Any = check(cuda.cudaEventCreate(), "CUDA event")
        check(cuda.cudaEventRecord(self.handle, stream), "CUDA event")

    def __del__(self) -> None:
        if hasattr(self, "handle"):
            self._cuda.cudaEventDestroy(self.handle)

    def wait(self) -> None:
        """Until the stream has come to it. Raises GpuError."""
        check(self._cuda.cudaEventSynchronize(self.handle), "GPU pass")

    def ms_since(self, earlier: Mark) -> float:
        """Between two marks that their streams have come to. Raises GpuError."""
        return float(check(self._cuda.cudaEventElapsedTime(earlier.handle, self.handle), "CUDA event"))


class StreamEvents:
    """The marks of one stream, for a `DeviceClock`."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def record(self) -> Mark:
        return self._stream.mark()

    def wait(self, event: Mark) -> None:
        event.wait()

    def elapsed_ms(self, first: Mark, second: Mark) -> float:
        return second.ms_since(first)


class Graph:
    """Captured work, ready to be launched as one; freed with the object."""

    def __init__(self, cuda: Any, captured: Any) -> None:
        self._cuda = cuda
        try:
            self.handle: Any = check(cuda.cudaGraphInstantiate(captured, 0), "CUDA graph")
        finally:
            cuda.cudaGraphDestroy(captured)

    def __del__(self) -> None:
        if hasattr(self, "handle"):
            self._cuda.cudaGraphExecDestroy(self.handle)


class DeviceArray:
    """GPU memory of a shape and type, at one address for as long as it lives; zero at first."""

    def __init__(self, shape: Sequence[int], item_bytes: int, what: str) -> None:
        self._cuda = cuda_runtime()
        self.bytes = max(256, int(np.prod(shape)) * item_bytes)
        self.address = int(check(self._cuda.cudaMalloc(self.bytes), f"{what} ({self.bytes / 1e6:,.0f} MB)"))
        check(self._cuda.cudaMemset(self.address, 0, self.bytes), what)
        # The zeros are written in the default stream, for which ours do not wait: they would come after the first copy.
        check(self._cuda.cudaDeviceSynchronize(), what)

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
