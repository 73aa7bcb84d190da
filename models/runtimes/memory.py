"""Memory of this process and of its GPU, as it is now and at its highest."""

from __future__ import annotations

import resource
from dataclasses import dataclass

from models.runtimes.nvidia import GpuError, check, cuda_runtime


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
