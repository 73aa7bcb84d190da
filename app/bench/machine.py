"""The machine that the figures belong to, and the memory bandwidth that bounds a decode step."""

from __future__ import annotations

import platform
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from app.decoding.calibration import available_cores
from app.decoding.plan_cache import installed, processor
from models.stored import stored_tensors


def describe() -> dict[str, str | int]:
    """Processor, cores, memory and the versions of what executes the models."""
    import psutil

    packages = ("onnxruntime", "torch", "transformers", "numpy")
    facts: dict[str, str | int] = {
        "processor": processor(),
        "cores": available_cores(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "system": platform.platform(),
        "python": platform.python_version(),
    }
    return facts | {name: found for name in packages if (found := installed(name))}


def memory_bandwidth(threads: int, mib: int = 128) -> float:
    """Bytes a second that `threads` threads read from memory together (best of five passes over `mib` MiB each)."""
    arrays = [np.ones(mib * 2**18, np.float32) for _ in range(threads)]
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(5):
            start = time.perf_counter()
            list(pool.map(np.max, arrays))
            best = max(best, threads * mib * 2**20 / (time.perf_counter() - start))
    return best


def decoder_weight_bytes(checkpoint: Path) -> int:
    """Bytes that one decode step must read in float32: every weight of the language model but the embedding table."""
    tensors = stored_tensors(checkpoint / "model.safetensors")
    prefixes = ("language_model.", "model.layers.", "model.norm.", "lm_head.")
    chosen = (t for name, t in tensors.items() if name.startswith(prefixes) and "embed_tokens" not in name)
    return 4 * sum(int(np.prod(tensor.shape)) for tensor in chosen)
