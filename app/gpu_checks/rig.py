"""The pair under test: random weights at the published 7B shapes (or tiny ones), made on the device itself."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from app.gpu_checks.int4 import Int4Linear
from app.telemetry.spans import Span
from models.clip import ClipConfig
from models.eventgpt import EventGPT
from models.llama import LlamaConfig
from models.runtimes.torch import TorchVision
from models.runtimes.torch_static import StaticTorchDecoder
from models.video_llava import VideoLlava

NEW_TOKENS, DRAFTS, LAST_CHUNK = 40, 28, 256


@dataclass(frozen=True)
class Sizes:
    """Shapes of both models, and how long a prompt's text is."""

    drafter: LlamaConfig
    target: LlamaConfig
    drafter_clip: ClipConfig
    target_clip: ClipConfig
    drafter_text: int
    target_text: int
    event_frames: int = 5
    frames: int = 8


def full_sizes() -> Sizes:
    """EventGPT-7B and Video-LLaVA-7B-hf: prompts of 641 and 2,076 rows."""

    def vicuna(vocabulary: int) -> LlamaConfig:
        return LlamaConfig(vocabulary, 4096, 11008, 32, 32, 32, 128, 1e-5, 1e4, 4096)

    def tower(size: int) -> ClipConfig:
        return ClipConfig(1024, 4096, 24, 16, size, 14, "quick_gelu", 1e-5)

    return Sizes(vicuna(32000), vicuna(32064), tower(336), tower(224), 59, 20)


def tiny_sizes() -> Sizes:
    """The same structure where a CPU takes no time: for trying the command."""

    def llama(vocabulary: int) -> LlamaConfig:
        return LlamaConfig(vocabulary, 32, 64, 2, 2, 2, 16, 1e-5, 1e4, 512)

    tower = ClipConfig(32, 48, 2, 2, 28, 14, "quick_gelu", 1e-5)
    return Sizes(llama(96), llama(128), tower, tower, 9, 9)


class HostEvents:
    """Events that the host's clock stamps: on a CPU a pass is over when it was enqueued."""

    def record(self) -> int:
        return time.monotonic_ns()

    def wait(self, event: int) -> None:
        pass

    def elapsed_ms(self, first: int, second: int) -> float:
        return (second - first) / 1e6


class Side:
    """One model on the device: its vision, its decoder with a stream of its own, and a prompt of constant length."""

    def __init__(self, network: Any, frames: int, text: int, image: int) -> None:
        weight = next(network.parameters())
        self.network, self.device, self.dtype = network, weight.device, weight.dtype
        self.pixels = torch.zeros(frames, 3, image, image, device=self.device, dtype=self.dtype)
        self.text, self.prompt = text, network.visual_tokens + text
        self.decoder = StaticTorchDecoder(network.decoder, -(-(self.prompt + 2 * NEW_TOKENS + 32) // 8) * 8)
        if self.device.type == "cpu":
            self.decoder.clock.follow(HostEvents())
        self.marks: list[tuple[str, Any, Any]] | None = None  # (stage, events around it), where they are wanted
        self.vision = TorchVision(network.vision, self.decoder)
        self.eos_id, self.vocabulary = 2, network.decoder.config.vocab_size
        self.weight_bytes = sum(p.numel() * p.element_size() for p in network.decoder.parameters())
        table = network.decoder.model.embed_tokens.weight
        self.weight_bytes -= table.numel() * table.element_size()  # a step reads one row of it
        config = network.decoder.config
        self.row_bytes = (
            2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * table.element_size()
        )

    def encode(self) -> Tensor:
        """The visual tokens, enqueued on the side's stream."""
        with self._marked("encode"), torch.inference_mode(), torch.cuda.stream(self.decoder.stream):
            tokens: Tensor = self.network.vision(self.pixels)
        return tokens

    def enqueue(self, stage: str, tokens: int, rows: int, before: int | None = None) -> None:
        """A pass over so many tokens, enqueued."""
        with self._marked(stage):
            self.decoder.enqueue(tokens, rows, before)

    def prefill(self) -> None:
        """Vision and a prefill of the prompt, enqueued."""
        self.encode()
        self.enqueue("prefill", self.prompt, 1)

    def with_int4(self) -> Side:
        """The same model with decoder weights of 4 bits in small passes; the large ones share this one's tensors."""
        shared = {id(value): value for value in (*self.network.parameters(), *self.network.buffers())}
        network = copy.deepcopy(self.network, shared)
        for module in (*network.decoder.model.layers, network.decoder):
            for parent in list(module.modules()) if module is not network.decoder else [module]:
                for name, child in parent.named_children():
                    if isinstance(child, nn.Linear):
                        setattr(parent, name, Int4Linear(child))
        return Side(network, self.pixels.shape[0], self.text, self.pixels.shape[-1])

    @contextmanager
    def _marked(self, stage: str) -> Iterator[None]:
        if self.marks is None:
            yield
            return
        begin = self.decoder.clock.mark()
        yield
        self.marks.append((stage, begin, self.decoder.clock.mark()))

    @property
    def prefill_flop(self) -> float:
        """Multiply-adds × 2 of prefill and vision: 2 × parameters × tokens, and attention's products."""
        c = self.network.decoder.config
        linear = sum(p.numel() for p in self.network.decoder.model.layers.parameters())
        attention = 2 * c.num_hidden_layers * c.num_attention_heads * c.head_dim * self.prompt**2  # causal: half of 4
        vision = sum(p.numel() for p in self.network.vision.parameters())
        tower = (self.pixels.shape[-1] // 14) ** 2 + 1
        return float(2 * linear * self.prompt + attention + 2 * vision * len(self.pixels) * tower)


@dataclass
class Rig:
    """Both sides on one device, and how time is taken there."""

    target: Side
    drafter: Side
    repeats: int
    gpu: bool
    target_prefill_ms: float = 0.0  # once it was measured

    def wait(self) -> None:
        if self.gpu:
            torch.cuda.synchronize()

    def spans(self, work: Callable[[], object]) -> list[Span]:
        """What both devices were busy with while `work` ran, by events in their streams; lanes `drafter`, `target`."""
        sides = {"drafter": self.drafter, "target": self.target}
        self.wait()
        for side in sides.values():
            side.decoder.clock.begin()  # a reference, while the stream is idle
            side.marks = []
        work()
        self.wait()
        found = []
        for lane, side in sides.items():
            marks, side.marks = side.marks or [], None
            for stage, begin, end in marks:
                if interval := side.decoder.clock.between(begin, end):
                    found.append(Span(stage, lane, *interval))
        return found

    def milliseconds(self, work: Callable[[], None], repeats: int | None = None) -> float:
        """Median wall time from an idle device to an idle one; three unmeasured times first, for graphs and caches."""
        for _ in range(3):
            work()
        self.wait()
        times = []
        for _ in range(repeats or self.repeats):
            begin = time.perf_counter()
            work()
            self.wait()
            times.append((time.perf_counter() - begin) * 1e3)
        return median(times)


def build_rig(sizes: Sizes, device: str, repeats: int = 20) -> Rig:
    """Both models with random weights, in bfloat16 on a GPU and float32 on a CPU."""
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    torch.manual_seed(0)

    def make(kind: type[nn.Module], clip: ClipConfig, llama: LlamaConfig) -> nn.Module:
        with torch.device("meta"):
            network = kind(clip, llama).to(dtype)
        network.to_empty(device=device).eval().requires_grad_(False)
        for value in (*network.parameters(), *network.buffers()):
            if value.is_floating_point():
                value.normal_(0, 0.02)
        return network

    drafter = make(EventGPT, sizes.drafter_clip, sizes.drafter)
    target = make(VideoLlava, sizes.target_clip, sizes.target)
    events = sizes.drafter_clip.image_size

    of_target = Side(target, sizes.frames, sizes.target_text, sizes.target_clip.image_size)
    of_drafter = Side(drafter, sizes.event_frames, sizes.drafter_text, events)
    return Rig(of_target, of_drafter, repeats, device != "cpu")
