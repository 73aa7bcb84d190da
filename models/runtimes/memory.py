"""Memory of this process and of its GPU, as it is now and at its highest."""

from __future__ import annotations

import resource
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from models.runtimes.nvidia import GpuError, OutOfGpuMemory, check, cuda_runtime

RESERVE_BYTES = 1 << 30  # for activations, buffers and libraries


def gpu_memory() -> tuple[int, int] | None:
    """Bytes of the GPU that are free, and all of them; None where cuda-python finds no GPU to ask."""
    try:
        free, total = check(cuda_runtime().cudaMemGetInfo(), "GPU memory")
    except GpuError:
        return None
    return int(free), int(total)


def host_peak_bytes() -> int:
    """The most memory this process has had resident since it was started."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB


def need_memory(need_bytes: int, what: str, found: tuple[int, int] | None = None) -> None:
    """Refuse before anything is loaded that cannot be held; `found`: free and all bytes, asked of CUDA if not given.

    need_bytes: weights and caches; a reserve for activations comes on top. Raises OutOfGpuMemory.
    """
    found = found or gpu_memory()
    need_bytes += RESERVE_BYTES
    if found is not None and need_bytes > found[0]:
        raise OutOfGpuMemory(
            f"{what}: takes {need_bytes / 1e9:.1f} GB of the GPU's memory, of whose {found[1] / 1e9:.1f} GB "
            f"{found[0] / 1e9:.1f} are free; close what else uses it, take a smaller precision, or runtime: onnx"
        )


def cache_bytes(manifest: Mapping[str, Any]) -> int:
    """Of the key/value caches of an exported model."""
    sizes = manifest["decoder"]
    rows = 2 * sizes["layers"] * sizes["kv_heads"] * manifest["s_max"]
    return int(rows * sizes["head_dim"] * (4 if sizes["cache"] == "float32" else 2))


def weight_bytes(manifest: Mapping[str, Any]) -> int:
    """Of one decoder and, unless it is quantised, of the vision side: that is small, and within the reserve."""
    files: Mapping[str, Any] = manifest["weights"]
    quantised = [int(entry["bytes"]) for name, entry in files.items() if name.startswith("decoder.")]
    head = 2 * manifest["decoder"]["vocabulary"] * manifest["decoder"]["width"]  # which is not quantised
    return sum(quantised) + head if quantised else sum(int(entry["bytes"]) for entry in files.values())


@dataclass
class PeakMemory:
    """The highest of what `look` saw: of the GPU everything that is in use, by whomever."""

    gpu_bytes: int | None = None

    def look(self) -> None:
        if (found := gpu_memory()) is not None:
            free, total = found
            self.gpu_bytes = max(self.gpu_bytes or 0, total - free)

    @property
    def figures(self) -> dict[str, int | None]:
        return {"host_bytes": host_peak_bytes(), "gpu_bytes": self.gpu_bytes}

    def __str__(self) -> str:
        gpu = "no GPU to ask" if self.gpu_bytes is None else f"GPU {self.gpu_bytes / 1e9:.2f} GB"
        return f"host {host_peak_bytes() / 1e9:.2f} GB, {gpu}"
