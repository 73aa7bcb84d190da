"""Which device a model runs on: `auto`, `cpu` or `cuda:N`. Two models may sit on two GPUs.

CUDA's current GPU is a matter of the thread, and a thread may serve both models: it is chosen before each call.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from models.errors import ModelError
from models.runtimes.nvidia import GpuError, check, cuda_runtime, find_gpu

ON_CPU = ("onnx", "torch")
ON_GPU = ("onnx-cuda", "onnx-tensorrt", "tensorrt", "torch")


def gpu_number(device: str) -> int | None:
    """N of `cuda:N`; None for `auto` and `cpu`. Raises ModelError for another word."""
    found = re.fullmatch(r"auto|cpu|cuda:(\d{1,2})", device)
    if not found:
        raise ModelError(f"{device!r} is none of auto, cpu and cuda:NUMBER (`nvidia-smi -L` counts the GPUs from 0)")
    return None if found[1] is None else int(found[1])


def need_runtimes(device: str, runtimes: Sequence[str]) -> None:
    """Refuse a device that the runtimes, by preference, do not run on. Raises ModelError."""
    number = gpu_number(device)
    if number is not None and runtimes[0] not in ON_GPU:
        raise ModelError(f"device {device}: runtime {runtimes[0]} runs on the CPU; name one of {', '.join(ON_GPU)}")
    if device == "cpu" and (others := [name for name in runtimes if name not in ON_CPU]):
        raise ModelError(f"device cpu: runtime {others[0]} runs on a GPU; name only {' or '.join(ON_CPU)}")


def need_gpu(number: int, runtime: str) -> None:
    """Refuse a GPU that the runtime does not find. Raises GpuError."""
    if runtime != "torch":
        find_gpu(number)
        return
    import torch

    if number >= (count := torch.cuda.device_count()):
        there = f"PyTorch finds {count} GPUs, counted from 0" if count else "PyTorch finds no GPU"
        raise GpuError(f"device cuda:{number}: {there}; name another device, or look at `nvidia-smi -L`")


def use_gpu(number: int, runtime: str) -> None:
    """What this thread asks of CUDA goes to that GPU from now on. Raises GpuError."""
    if runtime == "torch":
        import torch

        torch.cuda.set_device(number)
    else:
        check(cuda_runtime().cudaSetDevice(number), f"GPU {number}")
