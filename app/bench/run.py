"""The benchmark: one run, one machine, every figure against a named baseline."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from app.bench import live, machine, quality, render
from app.bench.report import eta, percentiles, strategy_figures
from app.bench.strategies import TIE, Lane, first_difference, run_lanes
from app.bench.windows import FIRST_SEED, BenchWindow, record_street, synthesise
from app.captioner import Captioner, CaptionerSettings, lead_ms, measure_costs
from app.decoding.costs import Costs
from app.publishing.mqtt import Publisher
from app.sensors.contract import SourceInfo
from app.windows import Windower
from models.bundle import VisionLanguageModel

INJECTED = (0.5, 0.7, 0.9, 1.0)
LIVE_SECONDS = 12.0
TOKENS = 30  # of a draft, for the lead; about a demo caption


@dataclass(frozen=True, slots=True)
class BenchSettings:
    """What to run."""

    strategies: tuple[str, ...]
    windows: int
    peer: bool
    injected: bool
    memory_windows: int
    length_us: int
    hop_us: int


class Bench:
    """Measures one pair. Progress goes to `console`; the figures come back as a JSON-ready dictionary."""

    def __init__(
        self,
        models: tuple[VisionLanguageModel, VisionLanguageModel],
        settings: CaptionerSettings,
        what: BenchSettings,
        checkpoint: Path,
        console: Console,
    ) -> None:
        self.models, self.settings, self.what = models, settings, what
        self.checkpoint, self.console = checkpoint, console

    def run(self) -> dict[str, Any]:
        """Every measurement, the quiet ones (one caption at a time) first."""
        self.weight_bytes = machine.decoder_weight_bytes(self.checkpoint)  # early: a sharded one is refused
        costs = measure_costs(*self.models, self.settings)
        single = measure_costs(*self.models, self.settings, cores=1)
        with self._progress() as progress:
            windows = self._synthesise(progress, costs, self.what.windows)
            lanes = self._lanes(costs, single)
            task = progress.add_task("captioning", total=len(lanes) * len(windows))
            run_lanes(lanes, self.models, self.settings, windows, lambda: progress.advance(task))
            figures = self._figures(lanes, costs, single, windows)
            progress.add_task("live pipeline", total=None)
            figures |= self._live(costs)  # before the peer: its torch would count as our memory
            if self.what.peer:
                progress.add_task("transformers generate", total=None)
                figures["peers"]["transformers"] = self._peer(lanes, windows)
        return figures

    def quality(self) -> dict[str, Any]:
        """How right both models are on held-out streets, and the η that their agreement is worth."""
        costs = measure_costs(*self.models, self.settings)
        count = self.what.windows
        alone = replace(self.settings, strategy="autoregressive")
        captioner = Captioner(*self.models, alone, costs=costs)
        try:
            with self._progress() as progress:
                task = progress.add_task("captioning held-out streets", total=count + count // 2)
                seen = quality.measure(captioner, "seen", count, lambda: progress.advance(task))
                unseen = quality.measure(captioner, "unseen", count // 2, lambda: progress.advance(task))
                lanes = [Lane("autoregressive", "autoregressive", None, costs)]
                lanes.append(Lane("prefill_hiding", "prefill_hiding", None, costs))
                windows = self._synthesise(progress, costs, min(count, 50))
                run_lanes(lanes, self.models, self.settings, windows, lambda: None)
        finally:
            captioner.close()
        found = quality.figures(seen, unseen) | {"eta": eta(lanes[1], lanes[0])}
        return {"machine": machine.describe(), "quality": found}

    def _progress(self) -> Progress:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        return Progress(*columns, console=self.console, transient=True)

    def _synthesise(self, progress: Progress, costs: Costs, count: int) -> list[BenchWindow]:
        task = progress.add_task("synthesising windows", total=count)
        lead_us = int(min(lead_ms(costs, TOKENS) * 1e3, self.what.length_us / 2))
        return asyncio.run(synthesise(count, self._windower, lead_us, lambda n: progress.update(task, completed=n)))

    def _windower(self, info: SourceInfo, lead_us: int) -> Windower:
        what = self.what
        return Windower(what.length_us, what.hop_us, self.settings.frames, lead_us, resolution=info.resolution)

    def _lanes(self, costs: Costs, single: Costs) -> list[Lane]:
        lanes = [Lane("autoregressive", "autoregressive", None, costs)]
        if "speculative" in self.what.strategies:
            lanes.append(Lane("speculative", "speculative", None, costs))
        if "prefill_hiding" in self.what.strategies:
            lanes.append(Lane("prefill_hiding", "prefill_hiding", None, costs))
            lanes += [
                Lane(f"prefill_hiding {place}", "prefill_hiding", place, costs, guard=False)
                for place in ("lead", "serial", "overlap")
            ]
        lanes.append(Lane("autoregressive, 1 thread", "autoregressive", None, single))
        if "prefill_hiding" in self.what.strategies:
            lanes.append(Lane("prefill_hiding, 1 thread", "prefill_hiding", None, single))
            if self.what.injected:
                lanes += [
                    Lane(f"prefill_hiding, α {alpha}", "prefill_hiding", "lead", costs, injected_alpha=alpha)
                    for alpha in INJECTED
                ]
        return lanes

    def _figures(self, lanes: list[Lane], costs: Costs, single: Costs, windows: list[BenchWindow]) -> dict[str, Any]:
        alone = lanes[0]
        by_name = {lane.name: lane for lane in lanes}
        alone_single = by_name["autoregressive, 1 thread"]
        figures: dict[str, Any] = {
            "machine": machine.describe(),
            "windows": len(windows),
            "strategies": {
                lane.name: strategy_figures(lane, alone_single if lane.name.endswith("1 thread") else alone)
                for lane in lanes
            },
            "ratios": {"overlap/alone": single.overlap_target_ms / single.overlap_alone_ms},  # one thread a model
            "verify_curve_ms": costs.verify_curve,
            "peers": {},
            "render": render.measure(),
        }
        if hiding := by_name.get("prefill_hiding"):
            floor = float(np.median(alone.prefill_ms))
            figures["ratios"] |= {
                "prefill_hiding/autoregressive": float(np.median(hiding.ms) / np.median(alone.ms)),
                "prefill_hiding/floor": float(np.median(hiding.ms)) / floor,
            }
        threads = costs.target_step.threads
        bandwidth = machine.memory_bandwidth(threads)
        weight_bytes = self.weight_bytes
        step = float(np.median(alone.step_ms)) if alone.step_ms else costs.target_step.ms
        figures["decode_step"] = {
            "ms": step,
            "threads": threads,
            "weight_bytes": weight_bytes,
            "bandwidth_gb_s": bandwidth / 1e9,
            "ratio": step / (weight_bytes / bandwidth * 1e3),
        }
        return figures

    def _peer(self, lanes: list[Lane], windows: list[BenchWindow]) -> dict[str, Any]:
        from app.bench.peer import TransformersPeer

        target, alone = self.models[1], lanes[0]
        prompt = target.prompt(self.settings.question)
        peer = TransformersPeer(self.checkpoint, target, prompt, self.settings.max_new_tokens)
        pixels = [target.pixels_from_frames([f.frame.image for f in w.closed.frames]) for w in windows]
        result = peer.run(pixels)
        differences = [
            (number, alone.captions[number].gaps[place])
            for number, tokens in enumerate(result.tokens)
            if (place := first_difference(alone.captions[number].token_ids, tokens)) is not None
        ]
        real = [difference for difference in differences if difference[1] > TIE]
        median = float(np.median(result.ms))
        hiding = next((lane for lane in lanes if lane.name == "prefill_hiding"), alone)
        return {
            "caption_ms": percentiles(result.ms),
            "threads": result.threads,
            "ratio": median / float(np.median(hiding.ms)),
            "autoregressive_ratio": median / float(np.median(alone.ms)),
            "token_identical": not real,
            "tie_gaps": [gap for _, gap in differences if gap <= TIE],
            "mismatches": len(real),
        }

    def _live(self, costs: Costs) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix="event-captioner-bench-") as folder:
            recording = Path(folder) / "live.aedat4"
            record_street(recording, FIRST_SEED + 500, LIVE_SECONDS)
            captioner = Captioner(*self.models, self.settings, costs=costs)
            try:
                publisher = Publisher("mqtt://localhost", "bench", replay=True)  # its outbox only: nobody connects it
                overhead = live.overhead_ms(
                    captioner, recording, self._windower, lambda c: publisher.publish_caption(c, "bench")
                )
                memory = None
                if self.what.memory_windows:
                    memory = live.memory(captioner, recording, self._windower, self.what.memory_windows)
            finally:
                captioner.close()
        return {"overhead_ms": percentiles(overhead), "memory": memory}
