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

from app.bench import live, machine, quality, render, streaming, studies
from app.bench.agreement import caption_cases
from app.bench.figures import eta, guard_figures, history_figures, percentiles, strategy_figures
from app.bench.lanes import Lane, Pair, run_lanes
from app.bench.python_cost import microseconds_a_pass
from app.bench.timelines import write_timelines
from app.bench.verify_cost import verify_cost
from app.bench.windows import FIRST_SEED, BenchWindow, make_windows, record_street
from app.captioner import Captioner, CaptionerSettings
from app.config import Config, load_config
from app.decoding.costs import Costs
from app.planning import lead_ms, measure_costs
from app.publishing.mqtt import Publisher
from app.sensors.contract import SourceInfo
from app.session import captioner_settings, load_pair
from app.simulation.inputs import CaptionCase
from app.simulation.validation import Validation, validate
from app.windower import Windower

LIVE_SECONDS = 12.0
ETA_WINDOWS = 60  # timed for the η of a quality run
TOKENS = 30  # of a draft, for the lead; about a demo caption


@dataclass(frozen=True, slots=True)
class BenchSettings:
    """What to run."""

    windows: int
    strategies: tuple[str, ...] = ()
    peer: bool = False
    injected: bool = False
    memory_windows: int = 0
    recording: Path | None = None  # whose windows come first


class Bench:
    """Measures one pair. Progress goes to `console`; the figures come back as a JSON-ready dictionary."""

    def __init__(
        self, models: Pair, settings: CaptionerSettings, what: BenchSettings, length_us: int, checkpoint: Path
    ) -> None:
        self.models, self.settings, self.what = models, settings, what
        self.length_us, self.checkpoint = length_us, checkpoint
        self.console = Console(stderr=True)

    @classmethod
    def configured(cls, config: Config | Path | None, what: BenchSettings) -> Bench:
        """With the models of a configuration; the hop is the window length. Raises ConfigError and ModelError."""
        if not isinstance(config, Config):
            config = load_config(config)
        models = load_pair(config)
        settings = captioner_settings(config, models[0].demo)
        return cls(models, settings, what, config.windows.length_ms * 1000, config.model_path("target"))

    def run(self) -> dict[str, Any]:
        """Every measurement, the quiet ones (one caption at a time) first."""
        self.weight_bytes = machine.decoder_weight_bytes(self.checkpoint)  # early: a sharded one is refused
        costs = measure_costs(*self.models, self.settings)
        single = measure_costs(*self.models, self.settings, cores=1)
        what = self.what
        with self._progress() as progress:
            windows = self._windows(progress, costs)
            groups = self._groups(costs, single)
            lanes = [lane for group in groups.values() for lane in group]
            task = progress.add_task("captioning", total=len(lanes) * len(windows))
            run_lanes(lanes, self.models, self.settings, windows, lambda: progress.advance(task))
            figures = self._figures(groups, costs, single, windows)
            if what.injected:
                figures["injected"] = self._injected(progress, costs, windows)
            task = progress.add_task("streaming prefill", total=2 * len(windows))
            figures["streaming_prefill"] = streaming.measure(
                self.models, self.settings, costs, windows, lambda: progress.advance(task)
            )
            figures["verify_cost"] = verify_cost(self.models[1], self.settings.question, costs)
            names = ("autoregressive", *(name for name in what.strategies if name != "autoregressive"))
            figures["python_us"] = microseconds_a_pass(names, self.models, self.settings, single, windows)
            progress.add_task("live pipeline", total=None)
            figures |= self._live(costs)  # before the peer: its torch would count as our memory
            if what.peer:
                progress.add_task("transformers generate", total=None)
                figures["peers"]["transformers"] = self._peer(groups["strategies"], windows)
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
                lanes = [
                    replace(lane, sources=("drafter",)) for lane in studies.strategy_lanes(("prefill_hiding",), costs)
                ]
                windows = self._windows(progress, costs, min(count, ETA_WINDOWS))
                run_lanes(lanes, self.models, self.settings, windows, lambda: None)
        finally:
            captioner.close()
        times = (float(np.median(values)) for values in (lanes[1].ms, lanes[0].ms, lanes[0].prefill_ms))
        return {"machine": machine.describe(), "quality": quality.figures(seen, unseen) | {"eta": eta(*times)}}

    def timelines(self, folder: Path) -> list[Path]:
        """Pictures of every strategy at work, so with the event drafter alone and the guard off; the files."""
        costs = measure_costs(*self.models, self.settings)
        lanes = [
            replace(lane, guard=False, sources=("drafter",))
            for lane in studies.strategy_lanes(self.what.strategies, costs)
        ]
        with self._progress() as progress:
            windows = self._windows(progress, costs)
            task = progress.add_task("captioning", total=len(lanes) * len(windows))
            run_lanes(lanes, self.models, self.settings, windows, lambda: progress.advance(task))
        return write_timelines(lanes, folder)

    def validate(self) -> tuple[Validation, list[CaptionCase]]:
        """The cost model against this machine."""
        costs = measure_costs(*self.models, self.settings)
        with self._progress() as progress:
            windows = self._windows(progress, costs)
            task = progress.add_task("every strategy, guard off", total=None)
            return validate(self.models, self.settings, costs, windows, lambda: progress.advance(task))

    def _progress(self) -> Progress:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        return Progress(*columns, console=self.console, transient=True)

    def _windows(self, progress: Progress, costs: Costs, count: int | None = None) -> list[BenchWindow]:
        count = count or self.what.windows
        task = progress.add_task("windows", total=count)
        lead_us = int(min(lead_ms(costs, TOKENS) * 1e3, self.length_us / 2))
        return asyncio.run(
            make_windows(
                count, self._windower, lead_us, lambda n: progress.update(task, completed=n), self.what.recording
            )
        )

    def _windower(self, info: SourceInfo, lead_us: int) -> Windower:
        length_us = self.length_us
        return Windower(length_us, length_us, self.settings.frames, lead_us, resolution=info.resolution)

    def _groups(self, costs: Costs, single: Costs) -> dict[str, list[Lane]]:
        """The lanes of the interleaved run; the first one is the reference of all."""
        strategies = self.what.strategies
        groups = {"strategies": studies.strategy_lanes(strategies, costs)}
        if "prefill_hiding" in strategies:
            groups["placements"] = studies.placement_lanes(costs)
            groups["one thread"] = studies.single_thread_lanes(single)
            groups["ablation"] = studies.ablation_lanes(costs)
        groups["guard"] = studies.guard_lanes(strategies, self.models, costs)
        return groups

    def _figures(
        self, groups: dict[str, list[Lane]], costs: Costs, single: Costs, windows: list[BenchWindow]
    ) -> dict[str, Any]:
        alone = groups["strategies"][0]
        threads = costs.drafter_prefill.threads
        cases = caption_cases(self.models[0], alone.captions, self.settings.drafter_span_us, threads)
        rows = {lane.name: strategy_figures(lane, alone, cases) for lane in groups["strategies"]}
        one_thread = groups.get("one thread", [])
        figures: dict[str, Any] = {
            "machine": machine.describe(),
            "windows": len(windows),
            "strategies": rows,
            "placements": {lane.name: strategy_figures(lane, alone) for lane in groups.get("placements", [])},
            "one_thread": {lane.name: strategy_figures(lane, one_thread[0]) for lane in one_thread},
            "ablation": {lane.name: strategy_figures(lane, alone) for lane in groups.get("ablation", [])},
            "guard": guard_figures(groups["guard"], alone),
            "ratios": {"overlap/alone": single.overlap_target_ms / single.overlap_alone_ms},  # one thread a model
            "peers": {},
            "render": render.measure(),
            "decode_step": self._decode_step(alone, costs),
        }
        hiding = next((lane for lane in groups["strategies"] if lane.strategy == "prefill_hiding"), None)
        if hiding:
            row = rows["prefill_hiding"]
            figures["ratios"] |= {
                "prefill_hiding/autoregressive": row["ratio"],
                "prefill_hiding/floor": row["floor_ratio"],
            }
            figures["history"] = history_figures(hiding, alone)
        return figures

    def _decode_step(self, alone: Lane, costs: Costs) -> dict[str, Any]:
        threads = costs.target_step.threads
        bandwidth = machine.memory_bandwidth(threads)
        step = float(np.median(alone.step_ms)) if alone.step_ms else costs.target_step.ms
        return {
            "ms": step,
            "threads": threads,
            "weight_bytes": self.weight_bytes,
            "bandwidth_gb_s": bandwidth / 1e9,
            "ratio": step / (self.weight_bytes / bandwidth * 1e3),
        }

    def _injected(self, progress: Progress, costs: Costs, windows: list[BenchWindow]) -> list[dict[str, Any]]:
        task = progress.add_task("injected acceptance", total=None)
        return list(
            studies.injected_rows(
                self.what.strategies, self.models, self.settings, costs, windows, lambda: progress.advance(task)
            )
        )

    def _peer(self, lanes: list[Lane], windows: list[BenchWindow]) -> dict[str, Any]:
        from app.bench.peer import TransformersPeer, peer_figures

        target = self.models[1]
        prompt = target.prompt(self.settings.question)
        peer = TransformersPeer(self.checkpoint, target, prompt, self.settings.max_new_tokens)
        pixels = [target.pixels_from_frames([f.frame.image for f in w.closed.frames]) for w in windows]
        hiding = next((lane for lane in lanes if lane.strategy == "prefill_hiding"), lanes[0])
        return peer_figures(peer.run(pixels), lanes[0], hiding)

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
