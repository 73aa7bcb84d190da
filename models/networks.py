"""The networks that a checkpoint's `model_type` can name, and what each is for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from models import eventgpt, video_llava
from models.checkpoint import Names, place, read_config
from models.errors import ModelError


@dataclass(frozen=True)
class Network:
    """A network: its name and role, how it is built and loaded, how its checkpoints name tensors, frames a window."""

    title: str
    role: Literal["drafter", "target"]
    load: Callable[[Path], Any]
    blueprint: Callable[..., tuple[Any, Path | None]]
    names: Names
    frames: int


NETWORKS = {
    eventgpt.MODEL_TYPE: Network(
        "EventGPT",
        "drafter",
        eventgpt.EventGPT.load,
        eventgpt.EventGPT.blueprint,
        eventgpt.NAMES,
        eventgpt.EVENT_FRAMES,
    ),
    video_llava.MODEL_TYPE: Network(
        "Video-LLaVA (Hugging Face port)",
        "target",
        video_llava.VideoLlava.load,
        video_llava.VideoLlava.blueprint,
        video_llava.NAMES,
        video_llava.FRAMES,
    ),
    video_llava.ORIGINAL_TYPE: Network(
        "Video-LLaVA (original)",
        "target",
        video_llava.VideoLlava.load,
        video_llava.VideoLlava.blueprint,
        video_llava.ORIGINAL_NAMES,
        video_llava.FRAMES,
    ),
}


def network_of(folder: Path) -> Network:
    """The network that a checkpoint's config.json names. Raises CheckpointError, and ModelError for any other."""
    kind = read_config(folder).get("model_type")
    if not isinstance(kind, str) or kind not in NETWORKS:
        known = " or ".join(NETWORKS)
        raise ModelError(f"{place(folder / 'config.json')}: model_type is {kind!r}; {known} can be used")
    return NETWORKS[kind]
