"""Figures of TensorRT: engines of the drafter's 7B shapes cut to few layers, built here, in 16 bit and int4."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from app.gpu_checks.figures import Figure
from models.errors import ModelError
from models.llama import LlamaConfig
from models.runtimes.nvidia import find_gpu, tensorrt_version

LAYERS, OF = 4, 32
ROWS = 768  # cache rows of the drafter: a prompt of 641, 64 new ones, drafts in flight


def tensorrt_steps(repeats: int) -> Iterator[Figure]:
    """A decode step in 16 bit and in int4, and how long the host is busy with it."""
    try:
        device, library = find_gpu(), tensorrt_version()
    except ModelError as error:
        yield Figure(STEP_RATIO, "tensorrt", None, "×", most=0.45, note=str(error).partition(";")[0])
        return
    note = f"{library}, compute capability {device.capability}"
    title = "TensorRT builds and runs an engine here"
    if why := refusal():
        yield Figure(title, "tensorrt", 0.0, "", note=f"{note}: {why}")
        yield Figure(STEP_RATIO, "tensorrt", None, "×", most=0.45, note=f"{library} refuses this GPU")
        return
    yield Figure(title, "tensorrt", 1.0, "", note=note)
    cut = f"{LAYERS} of {OF} layers"
    config = LlamaConfig(32000, 4096, 11008, LAYERS, 32, 32, 128, 1e-5, 1e4, 4096)
    steps, busy = {}, {}
    for precision, name in (("fp16", "16 bit"), ("int4", "int4")):
        with tempfile.TemporaryDirectory() as folder:
            decoder = _decoder(Path(folder), config, precision)
            steps[precision], busy[precision] = _times(decoder, repeats)
            del decoder
        yield Figure(f"drafter decode step, {name}", "tensorrt", steps[precision], "ms", note=cut)
    yield Figure(STEP_RATIO, "tensorrt", steps["int4"] / steps["fp16"], "×", most=0.45, note=cut)
    yield Figure("host time a drafted token", "tensorrt", busy["int4"], "µs", most=100, note="graph replay, no waiting")


def refusal() -> str | None:
    """Why TensorRT runs no engine of small shapes on this GPU, in its own words; None: it does."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            decoder = _decoder(Path(folder), LlamaConfig(512, 256, 512, 1, 4, 4, 64, 1e-5, 1e4, 4096), "fp16")
            decoder.forward(np.zeros((2, decoder.width), np.float32), 0, np.arange(2), 1)
    except (ModelError, RuntimeError, OSError) as error:
        return " ".join(str(error).split())[:160]
    return None


def not_measured() -> list[Figure]:
    """The rows of single passes on the runtimes that this command does not run at full size, each with why."""
    wanted = (
        ("target decode step ÷ floor", 1.25),
        ("target prefill ÷ floor", 1.6),
        ("verify of 28 ÷ decode step", 1.15),
    )
    rows = []
    for runtime in ("tensorrt", "onnx-cuda", "onnx-tensorrt"):
        try:
            if runtime == "tensorrt":
                tensorrt_version()
            else:
                from models.runtimes.onnx_gpu import need_provider

                need_provider(runtime)
            why = "a full-size export and its engines take longer than this command has"
        except (ModelError, ImportError) as error:
            why = " ".join(str(error).split(";")[0].split())
        rows += [Figure(name, runtime, None, "×", most=most, note=why) for name, most in wanted]
    return rows


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
        made = sum(1 for _ in decoder.greedy(1, 64, count))
        ms.append((time.perf_counter() - begin) / made * 1e3)
        begin = time.perf_counter()
        for k in range(count):
            decoder.enqueue_step(64, k)
        us.append((time.perf_counter() - begin) / count * 1e6)
        list(decoder.greedy(1, 64, 1))  # waits for them all
    return median(ms), median(us)
