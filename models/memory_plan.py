"""What a pair of models takes of a GPU's memory, for each precision, from sizes alone.

A model takes its weights, its key/value cache and, while it computes, activations. These are upper bounds, in bytes:
- weights: 16 bit everywhere; int8 and int4 hold the decoder's linear layers in 8 or 4.25 bits (one 16-bit scale and
  zero point for each group of 128), the embedding table, the head and the vision side stay in 16 bit;
- cache: keys and values of every layer in 16 bit, for the prompt, the new tokens and the drafts in flight;
- activations: the prefill's widest layer in 16 bit with its attention scores held once in float32, or the vision
  tower's, whichever is more; and float32 logits of a verify pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from models.clip import ClipConfig
from models.errors import ModelError
from models.inspection import inspect_checkpoint
from models.llama import LlamaConfig

PRECISIONS = ("16 bit", "int8", "int4")
_LINEAR_BYTES = {"16 bit": 2.0, "int8": 1 + 2 / 128, "int4": 0.5 + 4 / 128}
RESERVE_BYTES = 1 << 30  # the driver's context, the libraries' workspaces
VERIFIED_ROWS = 32  # draft tokens in flight, as `export` reserves them


@dataclass(frozen=True)
class Shape:
    """A model's sizes, as far as memory follows from them."""

    name: str
    llama: LlamaConfig
    clip: ClipConfig
    frames: int
    prompt_rows: int
    vision_parameters: int

    @property
    def linear_parameters(self) -> int:
        """Of the decoder's layers: what int8 and int4 shrink."""
        c = self.llama
        heads = c.hidden_size * c.head_dim * (2 * c.num_attention_heads + 2 * c.num_key_value_heads)
        return c.num_hidden_layers * (heads + 3 * c.hidden_size * c.intermediate_size)

    @property
    def other_parameters(self) -> int:
        """Embedding table, head, norms and the vision side."""
        c = self.llama
        return 2 * c.vocab_size * c.hidden_size + (2 * c.num_hidden_layers + 1) * c.hidden_size + self.vision_parameters

    def weight_bytes(self, precision: str) -> int:
        return int(self.linear_parameters * _LINEAR_BYTES[precision]) + 2 * self.other_parameters

    def cache_bytes(self, max_new_tokens: int) -> int:
        c = self.llama
        rows = -(-(self.prompt_rows + max_new_tokens + VERIFIED_ROWS) // 8) * 8
        return 2 * c.num_hidden_layers * c.num_key_value_heads * c.head_dim * rows * 2

    def activation_bytes(self) -> int:
        c, v, rows = self.llama, self.clip, self.prompt_rows
        prefill = rows * (2 * (4 * c.hidden_size + 2 * c.intermediate_size) + 4 * c.num_attention_heads * rows)
        tokens = self.frames * v.tokens
        tower = tokens * (2 * (4 * v.hidden_size + v.intermediate_size) + 4 * v.num_attention_heads * v.tokens)
        return max(prefill, tower) + 4 * VERIFIED_ROWS * c.vocab_size

    def total_bytes(self, precision: str, max_new_tokens: int) -> int:
        return self.weight_bytes(precision) + self.cache_bytes(max_new_tokens) + self.activation_bytes()


def _vicuna(vocabulary: int) -> LlamaConfig:
    return LlamaConfig(vocabulary, 4096, 11008, 32, 32, 32, 128, 1e-5, 1e4, 4096)


def _vit_large(image_size: int) -> ClipConfig:
    return ClipConfig(1024, 4096, 24, 16, image_size, 14, "quick_gelu", 1e-5)


EVENTGPT_7B = Shape("EventGPT-7B", _vicuna(32000), _vit_large(336), 5, 59 + 582, 341_266_432)
VIDEO_LLAVA_7B = Shape("Video-LLaVA-7B-hf", _vicuna(32064), _vit_large(224), 8, 20 + 2056, 324_157_440)


def shape_of(checkpoint: Path, role: str) -> Shape:
    """A checkpoint's shape, from its configuration and headers. Raises ModelError, also for the wrong role."""
    found = inspect_checkpoint(checkpoint)
    if found.role != role:
        raise ModelError(f"{checkpoint}: {found.title} is a {found.role}, not a {role}; swap the two checkpoints")
    llama, clip = LlamaConfig(**found.sizes["decoder"]), ClipConfig(**found.sizes["vision"])
    published = EVENTGPT_7B if role == "drafter" else VIDEO_LLAVA_7B
    text_rows = published.prompt_rows - (582 if role == "drafter" else 2056)
    decoder = Shape(checkpoint.name, llama, clip, published.frames, text_rows + found.visual_tokens, 0)
    vision = found.parameters - decoder.linear_parameters - decoder.other_parameters
    return Shape(checkpoint.name, llama, clip, published.frames, decoder.prompt_rows, vision)


@dataclass(frozen=True)
class Pairing:
    """The two models in one precision each, against a GPU's memory."""

    drafter: str
    target: str
    need_bytes: int
    fits: bool


def fits_alone(target: Shape, gpu_bytes: int, max_new_tokens: int) -> str | None:
    """The best precision in which the target fits by itself, None when none does."""
    needs = ((name, target.total_bytes(name, max_new_tokens) + RESERVE_BYTES) for name in PRECISIONS)
    return next((name for name, need in needs if need <= gpu_bytes), None)


def pairings(drafter: Shape, target: Shape, gpu_bytes: int, max_new_tokens: int) -> list[Pairing]:
    """Every combination, the target's precision first: the words are the target's, a drafter costs only acceptance.

    The two activations count once each: the models may run at the same time.
    """
    result = []
    for of_target in PRECISIONS:
        for of_drafter in PRECISIONS:
            need = (
                target.total_bytes(of_target, max_new_tokens)
                + drafter.total_bytes(of_drafter, max_new_tokens)
                + RESERVE_BYTES
            )
            result.append(Pairing(of_drafter, of_target, need, need <= gpu_bytes))
    return result
