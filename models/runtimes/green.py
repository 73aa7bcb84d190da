"""A part of the GPU's multiprocessors as a green context (CUDA 12.4 and later); the rest stays free."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from models.runtimes.nvidia import GpuError, check, cuda_runtime


class GreenContext:
    """At least `multiprocessors` of the GPU (it deals them out in groups of 2, 4 or 8). Raises GpuError."""

    def __init__(self, multiprocessors: int) -> None:
        self._cuda = _driver()
        check(self._cuda.cuInit(0), "green context")
        number = check(cuda_runtime().cudaGetDevice(), "green context")
        device = check(self._cuda.cuDeviceGet(number), "green context")
        # The primary context is the one of every other stream; a green context cannot do without it.
        check(self._cuda.cuDevicePrimaryCtxRetain(device), "green context")
        self._device = device
        kind = self._cuda.CUdevResourceType.CU_DEV_RESOURCE_TYPE_SM
        whole = check(self._cuda.cuDeviceGetDevResource(device, kind), "green context")
        if not 0 < multiprocessors < whole.sm.smCount:
            raise GpuError(
                f"gpu.sharing: green_context({multiprocessors}): this GPU has {whole.sm.smCount} multiprocessors; name "
                "fewer, or choose streams"
            )
        parts, _, _ = check(self._cuda.cuDevSmResourceSplitByCount(1, whole, 0, multiprocessors), "green context")
        described = check(self._cuda.cuDevResourceGenerateDesc(parts, 1), "green context")
        flag = self._cuda.CUgreenCtxCreate_flags.CU_GREEN_CTX_DEFAULT_STREAM
        self._handle = check(self._cuda.cuGreenCtxCreate(described, device, flag), "green context")

    def stream(self) -> Any:
        """A stream whose kernels run on this part alone; it must not outlive the object."""
        kind = self._cuda.CUstream_flags.CU_STREAM_NON_BLOCKING
        return check(self._cuda.cuGreenCtxStreamCreate(self._handle, kind, 0), "green context")

    def __del__(self) -> None:
        if hasattr(self, "_handle"):
            self._cuda.cuGreenCtxDestroy(self._handle)
        if hasattr(self, "_device"):
            self._cuda.cuDevicePrimaryCtxRelease(self._device)


def _driver() -> Any:
    try:
        found = import_module("cuda.bindings.driver")
    except ImportError:
        raise GpuError("cuda-python is not installed; pip install -e '.[tensorrt]'") from None
    if not hasattr(found, "cuGreenCtxCreate"):
        raise GpuError("this cuda-python knows no green contexts; pip install -U cuda-bindings, or choose streams")
    return found
