"""The section of the configuration for the two networks: where they are, and what executes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from app.config_section import Section
from models.errors import ModelError
from models.runtimes.devices import ON_GPU, gpu_number, need_runtimes

Role = Literal["drafter", "target"]
Threads = Literal["auto"] | Annotated[int, Field(ge=1, le=256)]


class ThreadsConfig(Section):
    encode: Threads = Field(default="auto", title="Encode", description="Threads of the visual side.")
    prefill: Threads = Field(default="auto", title="Prefill", description="Threads of the prompt's prefill.")
    decode: Threads = Field(default="auto", title="Decode", description="Threads of drafting, decoding and verifying.")


Runtime = Literal["onnx", "onnx-cuda", "onnx-tensorrt", "torch", "tensorrt"]


class ModelConfig(Section):
    path: str | None = Field(
        default=None,
        title="Model folder",
        description="Folder of the model, relative to this file. Left out: the bundled demo model.",
    )
    runtime: Runtime | Annotated[list[Runtime], Field(min_length=1)] = Field(
        default="onnx",
        title="Runtime",
        description="What executes it: onnx (ONNX Runtime on the CPU), onnx-cuda and onnx-tensorrt (its providers for "
        "a GPU), tensorrt (engines that `export --runtime tensorrt` built), torch (PyTorch); or a list, of which the "
        "first that can is taken and the others are told about; what runs out of GPU memory goes on with the next.",
    )
    threads: ThreadsConfig = Field(
        default_factory=ThreadsConfig,
        title="Threads",
        description="Threads of each phase while the other model is still; auto: the quickest, measured at start-up.",
    )

    device: str = Field(
        default="auto",
        title="Device",
        description="Where it runs: cuda:N, one of several GPUs (counted from 0), for a runtime that runs on one; cpu, "
        "for onnx and torch; auto: the CPU or the first GPU, as the runtime has it.",
    )

    @field_validator("device")
    @classmethod
    def _known(cls, device: str) -> str:
        _told_as_value_error(gpu_number, device)
        return device

    @model_validator(mode="after")
    def _runs_there(self) -> ModelConfig:
        _told_as_value_error(need_runtimes, self.device, self.runtimes)
        return self

    @property
    def runtimes(self) -> list[Runtime]:
        """In the order of preference."""
        return [self.runtime] if isinstance(self.runtime, str) else self.runtime


def _told_as_value_error(check: Callable[..., object], *what: object) -> None:
    """As pydantic wants it."""
    try:
        check(*what)
    except ModelError as error:
        raise ValueError(str(error)) from None


class ModelsConfig(Section):
    drafter: ModelConfig = Field(
        default_factory=ModelConfig, title="Drafter", description="EventGPT: reads events, proposes the caption."
    )
    target: ModelConfig = Field(
        default_factory=ModelConfig, title="Target", description="Video-LLaVA: reads frames, has the last word."
    )

    def device(self, role: Role) -> str:
        """Of a model. Where the other one names its GPU, `auto` is a named one too: they may share a thread."""
        mine, other = (self.drafter, self.target) if role == "drafter" else (self.target, self.drafter)
        named = gpu_number(other.device) is not None and mine.runtimes[0] in ON_GPU
        return "cuda:0" if mine.device == "auto" and named else mine.device
