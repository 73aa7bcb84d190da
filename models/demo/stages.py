"""One training stage: a seeded, resumable run of Muon and AdamW with warm-up and a cosine.

Muon (Jordan, 2024) for the matrices inside the networks, AdamW for embeddings, norms and everything else.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from models.demo.lessons import Loss
from models.demo.muon import Muon
from models.demo.recipe import Stage

Report = Callable[[int, float], None]  # steps done, smoothed loss

SAVE_SECONDS = 60.0
CLIP_NORM = 1.0
MUON_RATE = 4.0  # Muon's rate ÷ AdamW's: its updates are even in all directions, so larger ones stay stable


def run_stage(
    name: str,
    stage: Stage,
    modules: Iterable[nn.Module],
    tower: nn.Module,
    loss_of: Loss,
    folder: Path,
    report: Report,
) -> None:
    """Train every parameter of `modules`, those of `tower` at their own rate; leaves `folder`/<name>.pt behind.

    A finished stage only restores its weights; an interrupted one goes on from its last minute. Each step draws from a
    generator of its own, so a resumed run sees the batches that an uninterrupted one would have.
    """
    state = nn.ModuleList(modules)
    optimisers = _optimisers(state, {id(parameter) for parameter in tower.parameters()}, stage)
    path = folder / f"{name}.pt"
    first, smoothed = 0, math.nan
    if path.exists():
        saved = torch.load(path, map_location="cpu", weights_only=True)
        state.load_state_dict(saved["weights"])
        first, smoothed = int(saved["step"]), float(saved["loss"])
        if first < stage.steps:
            for optimiser, kept in zip(optimisers, saved["optimisers"], strict=True):
                peaks = [group["peak"] for group in optimiser.param_groups]
                optimiser.load_state_dict(kept)
                for group, peak in zip(optimiser.param_groups, peaks, strict=True):
                    group["peak"] = peak  # the recipe decides, also when it changed since
    groups = [group for optimiser in optimisers for group in optimiser.param_groups]
    parameters = [p for group in groups if group["peak"] > 0 for p in group["params"]]

    def save(step: int) -> None:
        partial = folder / f"{name}.partial"
        torch.save(
            {
                "weights": state.state_dict(),
                "optimisers": [optimiser.state_dict() for optimiser in optimisers],
                "step": step,
                "loss": smoothed,
            },
            partial,
        )
        partial.rename(path)

    tower.requires_grad_(stage.tower_rate > 0)
    saved_at = time.monotonic()
    for step in range(first, stage.steps):
        for group in groups:
            group["lr"] = group["peak"] * _schedule(step, stage)
        loss = loss_of(np.random.default_rng((_number(name), step)))
        state.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
        for optimiser in optimisers:
            optimiser.step()
        smoothed = loss.item() if math.isnan(smoothed) else 0.97 * smoothed + 0.03 * loss.item()
        report(step + 1, smoothed)
        if time.monotonic() - saved_at > SAVE_SECONDS:
            save(step + 1)
            saved_at = time.monotonic()
    if first < stage.steps:
        save(stage.steps)
    tower.requires_grad_(True)


def _optimisers(state: nn.Module, slow: set[int], stage: Stage) -> list[torch.optim.Optimizer]:
    """One for hidden matrices, one for the rest, each with a group for the tower (`slow`: ids of its parameters)."""
    hidden: list[list[nn.Parameter]] = [[], []]
    rest: list[list[nn.Parameter]] = [[], []]
    for name, parameter in state.named_parameters():
        inside = parameter.ndim == 2 and ".layers." in name
        (hidden if inside else rest)[id(parameter) in slow].append(parameter)
    rates = (stage.rate, stage.tower_rate)

    def groups(kind: list[list[nn.Parameter]], times: float = 1.0) -> list[dict[str, Any]]:
        return [{"params": params, "peak": times * rate} for params, rate in zip(kind, rates, strict=True) if params]

    built: list[torch.optim.Optimizer] = []
    if any(hidden):
        built.append(Muon(groups(hidden, MUON_RATE), weight_decay=0.01))
    if any(rest):
        built.append(torch.optim.AdamW(groups(rest), lr=0.0, betas=(0.9, 0.98), weight_decay=0.01))
    return built


def _schedule(step: int, stage: Stage) -> float:
    """Linear warm-up, then half a cosine down to a twentieth."""
    if step < stage.warmup:
        return (step + 1) / stage.warmup
    progress = (step - stage.warmup) / max(1, stage.steps - stage.warmup)
    return 0.05 + 0.95 * (1 + math.cos(math.pi * progress)) / 2


def _number(name: str) -> int:
    return int.from_bytes(name.encode(), "big") % 2**63
