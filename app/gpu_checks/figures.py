"""One measured figure of the table, and every figure there is, with what is wanted of it."""

from __future__ import annotations

from dataclasses import dataclass

NOT_MEASURED = "not measured"


@dataclass(frozen=True, slots=True)
class Figure:
    """A row: what was measured, on which runtime, against what is wanted; `value` None: not measured, `note` why."""

    name: str
    runtime: str
    value: float | None
    unit: str
    most: float | None = None  # wanted: at most
    least: float | None = None  # wanted: at least
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether it is as wanted; None where nothing was measured or nothing is wanted."""
        if self.value is None or (self.most is None and self.least is None):
            return None
        return (self.most is None or self.value <= self.most) and (self.least is None or self.value >= self.least)

    @property
    def wanted(self) -> str:
        parts = [f"≤ {self.most:g}" if self.most is not None else "", f"≥ {self.least:g}" if self.least else ""]
        return " ".join(part for part in parts if part) or "–"

    @property
    def shown(self) -> str:
        return NOT_MEASURED if self.value is None else f"{self.value:.3g} {self.unit}".strip()


PLAN = (
    "target decode step ÷ its floor (weights and cache ÷ 4.3 TB/s): ≤ 1.25",
    "target prefill, vision included, ÷ its floor (FLOP ÷ 790 TFLOP/s): ≤ 1.6",
    "verify of 28 tokens ÷ one decode step: ≤ 1.15",
    "what 28 drafts in the prefill's last chunk of 256 cost",
    "target prefill ÷ drafter prefill, vision included (survey: 8.59 and 3.8)",
    "host time a decode step on torch, graph replay beside plain launches: ≤ 100 µs",
    "torch with int4 weights (PyTorch's own kernel): drafter step ÷ its bf16 step: ≤ 0.45",
    "transformers generate, eager, to 40 tokens ÷ autoregressive: ≥ 4",
    "transformers generate, static cache and compile, to 40 tokens ÷ autoregressive: ≥ 1.1",
    "TensorRT: whether it builds and runs an engine on this GPU; engines of the drafter's 7B shapes cut to 4 of 32 "
    "layers, built here: the decode step in 16 bit and in int4, int4 ÷ 16 bit: ≤ 0.45, host time a drafted token: "
    "≤ 100 µs",
    "decode step, prefill and verify on the runtimes tensorrt, onnx-cuda and onnx-tensorrt: a row each that says why "
    "it was not measured",
    "placement lead and serial, and overlap × sharing streams, priority, green_context(32), chunked(256), with the "
    "bf16 and the int4 drafter: ms a caption and accepted hidden tokens at injected α 0.7, 0.8, 0.9",
    "the plan that the start-up calibration chooses ÷ the best of these: ≤ 1.02, ÷ the serial one: ≤ 1 (with lead "
    "and without)",
    "overlap, by CUDA events in both streams, with the bf16 and the int4 drafter: hidden tokens (≥ 20 wanted with "
    "int4), the prefill's slow-down, true overlap in ms",
    "a trace of one caption under each placement and way of sharing (OUT.trace.json beside --json OUT.json)",
    "demo pair: real acceptance on the bundled recording",
)
