"""TensorRT's engines with their contexts, on the one stream of a model; what the runtime is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from models.runtimes.cuda import DeviceArray, Stream, StreamEvents
from models.runtimes.device_clock import DeviceClock
from models.runtimes.nvidia import GpuError, quiet_logger, refusal, started, tensorrt

REBUILD = "build the engines again"


class Lane:
    """The stream of one model and the memory for its activations: its passes follow each other, so they share it."""

    def __init__(self) -> None:
        self.stream = Stream()
        self.clock = DeviceClock(StreamEvents(self.stream))
        self.scratch = DeviceArray((256,), 1, "activations")

    def move(self, stream: Stream) -> None:
        """Its passes go in another stream from now on."""
        self.stream = stream
        self.clock.follow(StreamEvents(stream))

    def reserve(self, size: int, what: str) -> None:
        """At least so many bytes; before the first context is made, since contexts hold the address."""
        if size > self.scratch.bytes:
            del self.scratch  # not both at once
            self.scratch = DeviceArray((size,), 1, what)


class Engine:
    """One engine. A context for what is enqueued as it comes, and one for each captured pass.

    A context that was changed after a capture makes the graph undefined (TensorRT's developer guide, "CUDA Graphs"), so
    no context serves two graphs; they share the lane's memory for activations.
    """

    def __init__(self, file: Path, lane: Lane) -> None:
        trt = tensorrt()
        self._trt, self.lane, self._name = trt, lane, file.name
        self._logger = quiet_logger(trt)
        self._runtime = started(lambda: trt.Runtime(self._logger), "runtime")
        # Mapped, not read: a 7B engine would be in memory twice.
        self._engine = self._runtime.deserialize_cuda_engine(np.memmap(file, np.uint8, "r"))
        if self._engine is None:
            raise refusal(
                f"{file.name}: TensorRT cannot load it", self._logger.last, "build the engines again on this machine"
            )
        self.scratch_bytes = int(self._engine.device_memory_size_v2)
        self._config = self._runtime_config()
        self._addresses: dict[str, int] = {}
        self._usual: Context | None = None

    def bind(self, addresses: Mapping[str, int]) -> None:
        """Fixed addresses of all inputs and outputs, once the lane has its memory. Raises GpuError."""
        self._addresses = dict(addresses)
        self._usual = self.context()

    def enqueue(self, profile: int, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """One pass in the stream's order. Raises GpuError."""
        assert self._usual is not None
        self._usual.enqueue(profile, shapes)

    def context(self) -> Context:
        """Another context with the same bindings. Raises GpuError."""
        strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        made = self._engine.create_execution_context(strategy if self._config is None else self._config)
        if made is None:
            raise refusal(
                f"{self._name}: TensorRT gave no context", self._logger.last, "export with a smaller --chunk, or close "
                "what else uses the GPU",
            )  # fmt: skip
        made.set_device_memory(self.lane.scratch.address, self.lane.scratch.bytes)
        for name, address in self._addresses.items():
            if not made.set_tensor_address(name, address):
                raise GpuError(f"{self._name}: no tensor {name}; build the engines again")
        return Context(made, self.lane, self._name, self._logger)

    def _runtime_config(self) -> Any:
        """TensorRT-RTX compiles kernels when a context meets a shape: at once, and once for all contexts. None: full
        TensorRT, which compiles when it builds."""
        if not hasattr(self._trt, "DynamicShapesKernelSpecializationStrategy"):
            return None
        config = self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(self._trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        config.dynamic_shapes_kernel_specialization_strategy = self._trt.DynamicShapesKernelSpecializationStrategy.EAGER
        self._compiled = config.create_runtime_cache()
        if not config.set_runtime_cache(self._compiled):
            raise GpuError(f"{self._name}: TensorRT takes no runtime cache; reinstall TensorRT")
        return config


class Context:
    """One execution context on a lane."""

    def __init__(self, context: Any, lane: Lane, name: str, logger: Any) -> None:
        self._context, self._lane, self._name, self._logger = context, lane, name, logger
        self._profile = -1

    def enqueue(self, profile: int, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """One pass in the stream's order. Raises GpuError."""
        stream = int(self._lane.stream.handle)
        if profile != self._profile:
            if not self._context.set_optimization_profile_async(profile, stream):
                raise refusal(f"{self._name}: profile {profile} cannot be taken", self._logger.last, REBUILD)
            self._profile = profile
        for name, shape in shapes.items():
            if not self._context.set_input_shape(name, shape):
                raise GpuError(
                    f"{self._name}: {name} of shape {list(shape)} is outside of profile {profile}; {REBUILD}"
                )
        if not self._context.execute_async_v3(stream):
            raise refusal(f"{self._name}: TensorRT did not take the pass", self._logger.last, REBUILD)

    @property
    def capturable(self) -> bool:
        """Whether a CUDA graph can hold its pass: TensorRT-RTX knows, and full TensorRT's always can."""
        known = getattr(self._context, "is_stream_capturable", None)
        return known is None or bool(known(int(self._lane.stream.handle)))


class Captured:
    """A pass that has run on contexts of its own, as a graph; launched operator by operator where it cannot be one."""

    def __init__(self, contexts: tuple[Context, ...], stream: Stream, work: Callable[[], None]) -> None:
        stream.wait()  # TensorRT wants one pass of the shape behind it
        self._contexts = contexts
        capturable = all(context.capturable for context in contexts)
        self._graph = stream.capture(work) if capturable else None
        self._work = None if capturable else work  # a graph needs it no more, and it holds the decoder

    def run(self, stream: Stream) -> None:
        if self._graph is not None:
            stream.replay(self._graph)
        elif self._work is not None:
            self._work()
