"""The NVIDIA side of a machine: its GPU, its TensorRT, and CUDA calls whose every status is checked. No torch.

CUDA comes through NVIDIA's cuda-python (module `cuda.bindings`), TensorRT through `tensorrt` or `tensorrt_rtx`, which
have one API. Both are imported when they are asked for: without them, without a GPU and with a driver that is too old
there is one line that says what to do.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

from models.errors import ModelError

TENSORRT_MODULES = ("tensorrt", "tensorrt_rtx")  # the full library first: it knows every GPU
_OUT_OF_MEMORY, _OLD_DRIVER, _NO_DEVICE = 2, 35, 100  # cudaErrorMemoryAllocation, …InsufficientDriver, …NoDevice


class GpuError(ModelError):
    """What a GPU or its libraries refuse: one line, with the remedy. The next configured runtime may still work."""


class OutOfGpuMemory(GpuError):
    """The GPU's memory is full."""


@dataclass(frozen=True, slots=True)
class GpuDevice:
    """One NVIDIA GPU: its name, compute capability ("9.0"), memory in bytes and the CUDA version of its driver."""

    name: str
    capability: str
    memory_bytes: int
    driver_cuda: str


def tensorrt() -> ModuleType:
    """`tensorrt`, or `tensorrt_rtx` where only that is installed. Raises GpuError."""
    for name in TENSORRT_MODULES:
        try:
            return import_module(name)
        except ImportError:
            continue
    raise GpuError(
        "TensorRT is not installed (neither `tensorrt` nor `tensorrt_rtx` can be imported); "
        "pip install -e '.[tensorrt]', or NVIDIA's own packages on a Jetson"
    )


def tensorrt_version() -> str:
    """Library and version, as an engine's manifest names them: `tensorrt_rtx 1.7.1.116`. Raises GpuError."""
    library = tensorrt()
    return f"{library.__name__} {library.__version__}"


def quiet_logger(library: Any) -> Any:
    """A TensorRT logger that prints nothing and keeps the last error in `last`: calls return None and say why only
    there."""

    class Logger(library.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.last = ""

        def log(self, severity: Any, message: str) -> None:
            if severity <= library.ILogger.ERROR:
                self.last = message

    return Logger()


def refusal(what: str, said: str, remedy: str) -> GpuError:
    """The error for a call of TensorRT that failed, from what its logger kept: full memory is told apart."""
    said = " ".join(said.split())[:240] or "it does not say why"
    full = re.search(r"out of memory|outofmemory|memory allocation|alloc\w* fail|insufficient memory", said, re.I)
    return (OutOfGpuMemory if full else GpuError)(f"{what} ({said}); {remedy}")


def started(make: Callable[[], Any], what: str) -> Any:
    """What a constructor of TensorRT makes; it raises TypeError where it has nothing to give. Raises GpuError."""
    try:
        made = make()
    except TypeError:
        made = None
    if made is None:
        raise GpuError(f"TensorRT gave no {what}; look at `nvidia-smi`, or reinstall TensorRT")
    return made


def cuda_runtime() -> ModuleType:
    """cuda-python's bindings of the CUDA runtime. Raises GpuError."""
    try:
        return import_module("cuda.bindings.runtime")
    except ImportError:
        raise GpuError("cuda-python is not installed; pip install -e '.[tensorrt]'") from None


def check(result: tuple[Any, ...], what: str) -> Any:
    """The values of a CUDA call `(status, *values)`: none, one, or a tuple. Raises GpuError unless it succeeded."""
    status, *values = result
    code = int(status)
    if code == _OUT_OF_MEMORY:
        raise OutOfGpuMemory(
            f"{what}: the GPU's memory is full; `event-captioner models plan` says what fits: "
            "take a smaller precision, or keep the drafter on the CPU (runtime: onnx)"
        )
    if code == _NO_DEVICE:
        raise GpuError(f"{what}: no NVIDIA GPU; choose runtime: onnx, or look at `nvidia-smi`")
    if code == _OLD_DRIVER:
        raise _driver_error(what)
    if code:
        raise GpuError(f"{what}: CUDA error {code} ({getattr(status, 'name', status)}); look at `dmesg`, then restart")
    return values[0] if len(values) == 1 else tuple(values)


def find_gpu(index: int = 0) -> GpuDevice:
    """The GPU of that index. Raises GpuError: none, no driver, a driver older than cuda-python, no cuda-python."""
    cuda = cuda_runtime()
    count = check(cuda.cudaGetDeviceCount(), "GPU")
    if count <= index:
        raise GpuError(f"GPU {index}: there are only {count}; choose another, or runtime: onnx")
    properties = check(cuda.cudaGetDeviceProperties(index), "GPU")
    name = properties.name.decode() if isinstance(properties.name, bytes) else str(properties.name)
    driver = int(check(cuda.cudaDriverGetVersion(), "GPU driver"))
    capability = f"{properties.major}.{properties.minor}"
    return GpuDevice(name, capability, int(properties.totalGlobalMem), _cuda_version(driver))


def need_precision(precision: str, capability: str) -> None:
    """Refuse what a GPU of that compute capability ("8.6") does not compute in. Raises GpuError."""
    major, _, minor = capability.partition(".")
    if not (major.isdigit() and minor.isdigit()):
        raise GpuError(f"compute capability {capability!r}: is no number like 8.9")
    least = {"fp8": (8, 9), "bf16": (8, 0)}.get(precision, (0, 0))
    if (int(major), int(minor)) < least:
        raise GpuError(
            f"compute capability {capability}: has no {precision}, which begins with {least[0]}.{least[1]}; export "
            "with --precision int8 or int4"
        )


def _driver_error(what: str) -> GpuError:
    """CUDA says the same of a driver that is absent and of one that is too old; the driver's version tells which."""
    cuda = cuda_runtime()
    status, driver = cuda.cudaDriverGetVersion()
    if int(status) or not driver:
        return GpuError(f"{what}: no NVIDIA driver; install one, or choose runtime: onnx")
    needed = cuda.cudaRuntimeGetVersion()[1]
    return GpuError(driver_too_old(what, int(driver), int(needed)))


def driver_too_old(what: str, driver: int, needed: int) -> str:
    """The line for a driver that supports CUDA version `driver` (CUDA's number, 12040) where `needed` is asked for."""
    return (
        f"{what}: the NVIDIA driver is too old: it supports CUDA {_cuda_version(driver)}, {_cuda_version(needed)} is "
        "needed; update the driver"
    )


def _cuda_version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"
