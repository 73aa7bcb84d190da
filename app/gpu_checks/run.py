"""All checks in one run, and the table they make."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from app.gpu_checks.deadline import deadline
from app.gpu_checks.figures import PLAN, Figure
from app.telemetry.spans import Span
from models.runtimes.memory import host_peak_bytes
from models.runtimes.nvidia import GpuDevice, GpuError, find_gpu

if TYPE_CHECKING:
    from app.gpu_checks.rig import Rig

BUNDLED_PAIR = Path(__file__).parents[2] / "models" / "demo" / "pair"
BUDGET_S = 450.0  # of all checks, under the eight minutes: what is left of it bounds every check besides its own bound


def run_checks(tiny: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Every figure, with the machine's name and the time taken. tiny: small shapes on the CPU, to try the command.

    A check that fails, or for which no time is left, gives a row that says so; the others go on. Raises GpuError
    without a GPU (unless tiny).
    """
    import torch

    from app.gpu_checks import engines, passes, sharing
    from app.gpu_checks.rig import NEW_TOKENS, build_rig, full_sizes, tiny_sizes

    device = None if tiny else the_gpu()
    begin = time.perf_counter()
    say("making both models …")
    rig = build_rig(tiny_sizes() if tiny else full_sizes(), "cpu" if tiny else "cuda", 2 if tiny else 20)
    cheap = replace(rig)  # the same target with a drafter in int4, once that is made
    alphas = (0.8,) if tiny else (0.7, 0.8, 0.9)
    traces: dict[str, list[Span]] = {}

    def int4() -> Iterable[Figure]:
        cheap.drafter = rig.drafter.with_int4()
        return passes.int4_step(rig, cheap)

    def with_int4(check: Callable[[Rig, str], Iterable[Figure]]) -> Iterable[Figure]:
        if cheap.drafter is rig.drafter:
            raise RuntimeError("there is no int4 drafter")
        return check(cheap, "int4")

    def trace() -> Iterable[Figure]:
        traces.update(sharing.traces(rig))
        yield Figure("ways of sharing traced", "torch", float(len(traces)), "", note=", ".join(traces))

    checks: dict[str, tuple[float, Callable[[], Iterable[Figure]]]] = {  # seconds that each may take
        "decode step": (20, lambda: passes.decode_step(rig)),
        "prefill": (20, lambda: passes.prefill(rig)),
        "verify": (20, lambda: passes.verify(rig)),
        "host overhead": (15, lambda: passes.host_overhead(rig)),
        "other runtimes": (10, engines.not_measured),
        "overlap, bf16": (25, lambda: sharing.overlap(rig, "bf16")),
        "placement and sharing, bf16": (90, lambda: sharing.placements(rig, alphas, "bf16")),
        "int4 drafter": (30, int4),
        "overlap, int4": (25, lambda: with_int4(sharing.overlap)),
        "traces": (30, trace),
        "demo pair": (40, lambda: demo(tiny)),
        "placement and sharing, int4": (90, lambda: with_int4(lambda r, kind: sharing.placements(r, alphas, kind))),
        "TensorRT": (75, lambda: engines.tensorrt_steps(rig.repeats)),
        "peers": (100, lambda: passes.peers(rig, 4 if tiny else NEW_TOKENS, compiled=not tiny)),
    }
    figures: list[Figure] = []
    for name, (longest_s, check) in checks.items():
        left_s = BUDGET_S - (time.perf_counter() - begin)
        if left_s <= 0:
            figures.append(Figure(name, "–", None, "", note="no time was left"))
            continue
        say(f"{name} …")
        try:
            with deadline(min(longest_s, left_s)):
                for figure in check():  # one by one: what was measured before a bound stands
                    figures.append(figure)
        except Exception as error:  # a check that fails is a row, not the end of the run
            why = " ".join(str(error).split())[:120]
            figures.append(Figure(name, "–", None, "", note=f"{type(error).__name__}: {why}"))
    return {
        "date": time.strftime("%Y-%m-%d"),
        "device": "CPU, tiny shapes: no measurement" if device is None else asdict(device),
        "torch": torch.__version__,
        "peak_gpu_bytes": torch.cuda.max_memory_allocated() if device else None,
        "peak_host_bytes": host_peak_bytes(),
        "seconds": round(time.perf_counter() - begin, 1),
        "figures": [asdict(figure) | {"met": figure.met} for figure in figures],
        "traces": traces,
    }


def the_gpu() -> GpuDevice:
    """The GPU, through cuda-python or, where that is not installed, through torch. Raises GpuError."""
    try:
        return find_gpu()
    except GpuError:
        if importlib.util.find_spec("torch") is None:
            raise
        import torch

        if not torch.cuda.is_available():
            raise
        found = torch.cuda.get_device_properties(0)
        capability = f"{found.major}.{found.minor}"
        return GpuDevice(found.name, capability, found.total_memory, f"at least {torch.version.cuda}")


def demo(tiny: bool) -> list[Figure]:
    """The bundled pair's real acceptance, on the torch runtime."""
    from app.gpu_checks.demo import acceptance

    return acceptance(BUNDLED_PAIR, windows=1 if tiny else 8)


def print_table(result: dict[str, Any], console: Console) -> None:
    """One table; what was not measured says why."""
    table = Table("check", "runtime", "measured", "wanted", "", "note", title_justify="left")
    for row in result["figures"]:
        met = row.pop("met")
        figure = Figure(**row)
        row["met"] = met
        table.add_row(
            figure.name,
            figure.runtime,
            figure.shown,
            figure.wanted,
            {True: "ok", False: "NO", None: ""}[met],
            figure.note,
        )
    console.print(table, highlight=False, markup=False)
    peaks = [f"host {result['peak_host_bytes'] / 1e9:.1f} GB"]
    if result["peak_gpu_bytes"]:
        peaks.append(f"GPU {result['peak_gpu_bytes'] / 1e9:.1f} GB")
    print(f"{result['device']}; torch {result['torch']}; {result['seconds']} s; {result['date']}")
    print(f"peak memory: {', '.join(peaks)}")


def print_plan(reason: str) -> None:
    """What would be measured, where nothing can be."""
    print(f"No figure was measured: {reason}\n\nOn one NVIDIA GPU (H200: the floors are its own) this measures:\n")
    for line in PLAN:
        print(f"- {line}")
    print("\nboth models at 7B shapes with random weights in bf16; acceptance is injected, and labelled so.")
