"""What the GPU and the board say of themselves: memory, temperature, throttling. Silent where there is none to ask."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass
from pathlib import Path

THERMAL = Path("/sys/class/thermal")

_lock = threading.Lock()
_there: bool | None = None  # whether NVML answers, once it was asked


@dataclass(frozen=True, slots=True)
class Gpu:
    """One NVIDIA GPU at one moment; memory in bytes."""

    name: str
    memory_used: int
    memory_total: int
    celsius: float
    throttled: bool  # slowed down by heat or power


def read_gpus() -> list[Gpu]:
    """Every NVIDIA GPU, through NVML (package nvidia-ml-py, extra `gpu`); none without driver or package."""
    global _there
    with _lock:
        if _there is None:
            _there = _start()
    return _read() if _there else []


def _start() -> bool:
    try:
        import pynvml
    except ImportError:
        return False
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return False
    return True


def _read() -> list[Gpu]:
    import pynvml

    slow = (
        pynvml.nvmlClocksThrottleReasonHwSlowdown
        | pynvml.nvmlClocksThrottleReasonSwThermalSlowdown
        | pynvml.nvmlClocksThrottleReasonSwPowerCap
    )
    found = []
    with contextlib.suppress(pynvml.NVMLError):
        for index in range(pynvml.nvmlDeviceGetCount()):
            gpu = pynvml.nvmlDeviceGetHandleByIndex(index)
            with contextlib.suppress(pynvml.NVMLError):  # a board's own GPU does not answer everything
                memory = pynvml.nvmlDeviceGetMemoryInfo(gpu)
                celsius = pynvml.nvmlDeviceGetTemperature(gpu, pynvml.NVML_TEMPERATURE_GPU)
                reasons = pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(gpu)
                found.append(Gpu(f"gpu{index}", memory.used, memory.total, celsius, bool(reasons & slow)))
    return found


def read_thermal() -> dict[str, float]:
    """°C by thermal zone, as the kernel shows them (a Jetson's CPU, GPU and board)."""
    found: dict[str, float] = {}
    for zone in sorted(THERMAL.glob("thermal_zone*")):
        with contextlib.suppress(OSError, ValueError):
            kind = (zone / "type").read_text().strip()
            name = kind if kind not in found else f"{kind}-{zone.name.removeprefix('thermal_zone')}"
            found[name] = int((zone / "temp").read_text()) / 1000
    return found
