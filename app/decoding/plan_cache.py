"""Keeps a calibration between runs, one file a machine and pair; a stale or unreadable one is measured again."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from app.decoding.costs import Costs, Phase

DRIFT = 1.25  # a target step this much slower or faster than the cached one makes the calibration stale


def cache_key(*parts: str) -> str:
    """A short name for what the costs depend on: checkpoints, runtime, processor, cores."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def processor() -> str:
    """The processor's own name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def installed(package: str) -> str | None:
    """The version of a package, None when it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def load(path: Path) -> Costs | None:
    """The cached costs, or None when there are none that this version can read."""
    try:
        raw: dict[str, Any] = json.loads(path.read_text())
        phases = {name: Phase(**value) for name, value in raw.items() if isinstance(value, dict) and "threads" in value}
        curves = {name: {int(n): ms for n, ms in raw[name].items()} for name in ("verify_curve", "fused_curve")}
        return Costs(**(raw | phases | curves | {"overlap_threads": tuple(raw["overlap_threads"])}))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def save(path: Path, costs: Costs) -> None:
    """Write atomically; a cache that cannot be written is only a slower next start."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps(asdict(costs), indent=1))
        temporary.replace(path)
    except OSError:
        return


def cached(path: Path, step_ms: Callable[[int], float], measure: Callable[[], Costs]) -> tuple[Costs, bool]:
    """The costs, and whether they came from the cache. `step_ms(threads)` is one quick measurement of a target step."""
    costs = load(path)
    if costs and 1 / DRIFT < step_ms(costs.target_step.threads) / costs.target_step.ms < DRIFT:
        return costs, True
    costs = measure()
    save(path, costs)
    return costs, False
