"""Devices that we do not have: their published figures, and a roofline's step times of the 7B pair on them."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from app.simulation.inputs import SimulationError, StepTimes
from models.memory_plan import EVENTGPT_7B, PRECISIONS, RESERVE_BYTES, VIDEO_LLAVA_7B, Shape

MEMORY_EFFICIENCY = {"16 bit": 0.68, "int8": 0.48, "int4": 0.37}
COMPUTE_EFFICIENCY = 0.50
SHARE_SLOW = 1.3
ASSUMPTIONS = (
    "a decode step reads every decoder weight and the cache at 68 % (16 bit), 48 % (int8) or 37 % (int4) of the "
    "memory bandwidth: pytorch/ao's README has Llama-2-7B on an A100 (2,039 GB/s) read 1,389, 974 and 746 GB/s, at "
    "105, 147 and 200 tokens a second; another engine may differ by a third",
    f"encoding and prefilling run at {COMPUTE_EFFICIENCY:.0%} of the dense 16-bit rate, 2 operations a weight and "
    "token and the attention's; quantised weights save memory traffic and no arithmetic",
    f"side by side on one GPU a prefill and a draft step slow each other {SHARE_SLOW} times (the step: 1.06–1.33 "
    "measured on an H200 split by multiprocessors); two decode steps take twice as long, sharing one memory bus",
    "kernel launches, host work and preprocessing are left out; agreement is independent from token to token",
)
MAX_DEVICES = 8


@dataclass(frozen=True, slots=True)
class Device:
    """Peak figures of one device, as published."""

    name: str
    bandwidth: float  # bytes a second
    flops: float  # dense 16-bit multiply-accumulate operations a second, counted as two
    memory: float  # bytes
    source: str


DEVICES = {
    device.name: device
    for device in (
        Device(
            "jetson-orin-64gb",
            204.8e9,
            42.5e12,
            64e9,
            "NVIDIA Jetson AGX Orin Series Technical Brief v1.2: 204.8 GB/s; 170 sparse INT8 TOPS of the GPU, "
            "so 85 dense and 42.5 in 16 bits",
        ),
        Device(
            "rtx-4090",
            1008e9,
            165.2e12,
            24e9,
            "NVIDIA Ada GPU Architecture whitepaper: 1,008 GB/s; 165.2 dense FP16 TFLOP/s with FP32 accumulation "
            "(waredb.com/processor/nvidia-geforce-rtx-4090 lists the same)",
        ),
        Device(
            "h100",
            3350e9,
            989e12,
            80e9,
            "NVIDIA H100 SXM datasheet: 3.35 TB/s; 1,979 sparse BF16 TFLOP/s, so 989 dense",
        ),
        Device(
            "h200",
            4800e9,
            989e12,
            141e9,
            "NVIDIA H200 datasheet: 4.8 TB/s; 1,979 sparse BF16 TFLOP/s, so 989 dense",
        ),
    )
}


def parse_device(text: str) -> tuple[Device, int]:
    """`h200` or `2xh200`: the device, and how many. Raises SimulationError."""
    match = re.fullmatch(r"(?:(\d+)x)?(.+)", text.strip().lower())
    name, count = (match[2], int(match[1] or 1)) if match else ("", 1)
    if name not in DEVICES or not 1 <= count <= MAX_DEVICES:
        raise SimulationError(
            f"--device {text!r}: not one of {', '.join(DEVICES)}, or 2x to {MAX_DEVICES}x one of them (2xh200)"
        )
    return DEVICES[name], count


@dataclass(frozen=True, slots=True)
class PairPlan:
    """The 7B pair on a device: precisions, prompt lengths, caption length."""

    drafter_precision: str = "int4"
    target_precision: str = "16 bit"
    drafter_rows: int = EVENTGPT_7B.prompt_rows
    target_rows: int = VIDEO_LLAVA_7B.prompt_rows
    tokens: int = 40  # of a caption, end-of-sequence included

    @property
    def drafter(self) -> Shape:
        return replace(EVENTGPT_7B, prompt_rows=self.drafter_rows)

    @property
    def target(self) -> Shape:
        return replace(VIDEO_LLAVA_7B, prompt_rows=self.target_rows)

    def check(self, device: Device, count: int) -> None:
        """Raises SimulationError where the pair does not fit: both models on one device, or one on each."""
        if unknown := {self.drafter_precision, self.target_precision} - set(PRECISIONS):
            raise SimulationError(f"precision {unknown.pop()!r}: not one of {', '.join(PRECISIONS)}")
        needs = (
            self.target.total_bytes(self.target_precision, self.tokens),
            self.drafter.total_bytes(self.drafter_precision, self.tokens),
        )
        need = (sum(needs) if count == 1 else max(needs)) + RESERVE_BYTES
        if need > device.memory:
            raise SimulationError(
                f"{device.name}: target in {self.target_precision} and drafter in {self.drafter_precision} need "
                f"{need / 1e9:.1f} GB a device, it has {device.memory / 1e9:.0f}; "
                "choose smaller --target-precision or --drafter-precision"
            )

    def step_times(self, device: Device) -> StepTimes:
        """By the roofline: bytes ÷ bandwidth or operations ÷ rate, whichever is longer."""
        target = _Roofline(device, self.target, self.target_precision)
        drafter = _Roofline(device, self.drafter, self.drafter_precision)
        return StepTimes(
            host_ms=0.0,
            target_encode_ms=target.encode_ms,
            target_prefill_ms=target.pass_ms(self.target_rows, 0),
            target_step_ms=target.step_ms,
            verify_row_ms=target.row_ms,
            fused_row_ms=target.row_ms,
            drafter_preprocess_ms=0.0,
            drafter_encode_ms=drafter.encode_ms,
            drafter_prefill_ms=drafter.pass_ms(self.drafter_rows, 0),
            drafter_step_ms=drafter.step_ms,
            target_prefill_slow=SHARE_SLOW,
            drafter_step_slow=SHARE_SLOW,
            steps_slow=2.0,
            free_rows=max(1, int(target.step_ms / target.row_ms)),
        )


@dataclass(frozen=True, slots=True)
class _Roofline:
    device: Device
    shape: Shape
    precision: str

    @property
    def row_ms(self) -> float:
        """Arithmetic of one row: two operations a weight of the layers and the head."""
        head = self.shape.llama.vocab_size * self.shape.llama.hidden_size
        return 2e3 * (self.shape.linear_parameters + head) / (self.device.flops * COMPUTE_EFFICIENCY)

    @property
    def encode_ms(self) -> float:
        tokens = self.shape.frames * self.shape.clip.tokens
        return 2e3 * self.shape.vision_parameters * tokens / (self.device.flops * COMPUTE_EFFICIENCY)

    @property
    def step_ms(self) -> float:
        return self.pass_ms(1, self.shape.prompt_rows)

    def pass_ms(self, rows: int, behind: int) -> float:
        """`rows` new rows after `behind` cached ones."""
        c = self.shape.llama
        attention = 4 * rows * (behind + rows / 2) * c.num_attention_heads * c.head_dim * c.num_hidden_layers
        arithmetic = rows * self.row_ms + 1e3 * attention / (self.device.flops * COMPUTE_EFFICIENCY)
        cached = 4 * c.num_hidden_layers * c.num_key_value_heads * c.head_dim * (behind + rows)
        table = 2 * c.vocab_size * c.hidden_size  # the embedding table is looked up, not read
        weights = self.shape.weight_bytes(self.precision) - 2 * self.shape.vision_parameters - table
        return max(arithmetic, 1e3 * (weights + cached) / (self.device.bandwidth * MEMORY_EFFICIENCY[self.precision]))
