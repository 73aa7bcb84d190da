"""Figures of TensorRT: engines of the drafter's 7B shapes cut to few layers, built here, in 16 bit and int4."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from app.gpu_checks.figures import Figure
from models.llama import LlamaConfig
from models.runtimes.nvidia import find_gpu, tensorrt, tensorrt_version

LAYERS, OF = 4, 32
ROWS = 768  # cache rows of the drafter: a prompt of 641, 64 new ones, drafts in flight


def tensorrt_steps(repeats: int) -> list[Figure]:
    """A decode step in 16 bit and in int4, and how long the host is busy with it. Raises ModelError: no engine."""
    device = find_gpu()
    known = getattr(getattr(tensorrt(), "ComputeCapability", None), "__members__", None)
    title, library = "TensorRT knows this GPU", tensorrt_version()
    note = f"{library}, compute capability {device.capability}"
    if known is not None and "SM" + device.capability.replace(".", "") not in known:
        return [
            Figure(title, "tensorrt", 0.0, "", note=note),
            Figure(STEP_RATIO, "tensorrt", None, "×", most=0.45, note=f"{library} builds nothing for this GPU"),
        ]
    cut = f"{LAYERS} of {OF} layers"
    config = LlamaConfig(32000, 4096, 11008, LAYERS, 32, 32, 128, 1e-5, 1e4, 4096)
    steps, busy = {}, {}
    for precision in ("fp16", "int4"):
        with tempfile.TemporaryDirectory() as folder:
            decoder = _decoder(Path(folder), config, precision)
            steps[precision], busy[precision] = _times(decoder, repeats)
            del decoder
    return [
        Figure(title, "tensorrt", 1.0, "", note=note),
        Figure("drafter decode step, 16 bit", "tensorrt", steps["fp16"], "ms", note=cut),
        Figure("drafter decode step, int4", "tensorrt", steps["int4"], "ms", note=cut),
        Figure(STEP_RATIO, "tensorrt", steps["int4"] / steps["fp16"], "×", most=0.45, note=cut),
        Figure("host time a drafted token", "tensorrt", busy["int4"], "µs", most=100, note="graph replay, no waiting"),
    ]


STEP_RATIO = "int4 drafter step ÷ its 16-bit step"


def _decoder(folder: Path, config: LlamaConfig, precision: str) -> Any:
    from export.engines import build_decoder
    from export.twin import write_twin
    from models.runtimes.tensorrt import open_decoder
    from models.stored import stored_tensors

    manifest = write_twin(folder, config, ROWS, "int4" if precision == "int4" else None)
    found = build_decoder(folder, manifest, precision)
    table = stored_tensors(folder / manifest["embedding"]["file"])[manifest["embedding"]["tensor"]]
    return open_decoder(folder, found, manifest, table)


def _times(decoder: Any, repeats: int) -> tuple[float, float]:
    """Milliseconds a token of a long greedy run, and microseconds that the host takes to enqueue one."""
    count, ms, us = 32, [], []
    decoder.forward(np.zeros((64, decoder.width), np.float32), 0, np.arange(1), 1)
    for _ in range(max(3, repeats // 4)):
        begin = time.perf_counter()
        made = decoder.greedy(1, 64, count)
        next(made)  # all of them are enqueued before the first is waited for
        first = time.perf_counter()
        list(made)
        ms.append((time.perf_counter() - begin) / count * 1e3)
        us.append((first - begin) / count * 1e6)
    return median(ms), median(us)
