"""EventGPT (XduSyL/EventGPT), the drafter: CLIP tower, projector, adaptor, spatio-temporal pooling, Llama decoder."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from models.checkpoint import CheckpointError, Names, fill, load_tensors, place, read_config
from models.clip import ClipConfig, ClipVision
from models.llama import LlamaConfig, LlamaDecoder
from models.towers import find_tower

MODEL_TYPE = "EventChat_llama"
EVENT_FRAMES = 5

TOWER = "model.visual_tower.visual_tower.vision_model."
NAMES = Names(
    prefixes=(
        (TOWER, "vision.visual_tower."),
        ("model.visual_projector.", "vision.visual_projector."),
        ("model.feature_adaptor.", "vision.feature_adaptor."),
        ("model.embed_tokens.", "decoder.model.embed_tokens."),
        ("model.layers.", "decoder.model.layers."),
        ("model.norm.", "decoder.model.norm."),
        ("lm_head.", "decoder.lm_head."),
    ),
    unused=((TOWER, "post_layernorm."), (TOWER, "position_ids"), ("model.", "rotary_emb.inv_freq")),
)
CLIP_NAMES = Names(  # a stock CLIP folder, whole (with its text side) or the vision model alone
    prefixes=(("vision_model.", ""), ("", "")),
    unused=(
        ("text_", ""),
        ("logit_scale", ""),
        ("visual_projection", ""),
        ("", "post_layernorm."),
        ("", "position_ids"),
    ),
)


class EventGPTVision(nn.Module):
    """Event frames to event tokens: the t temporal ones first, then one for each tower position."""

    def __init__(self, clip: ClipConfig, width: int) -> None:
        super().__init__()
        self.visual_tower = ClipVision(clip)
        self.visual_projector = nn.Sequential(nn.Linear(clip.hidden_size, width), nn.GELU(), nn.Linear(width, width))
        self.feature_adaptor = nn.Linear(width, width)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels [t, 3, H, W] of one window to [t + tokens, D]."""
        return self.pool(self.features(pixels))

    def features(self, pixels: Tensor) -> Tensor:
        """Pixels [N, 3, H, W] to projected and adapted features [N, tokens, D], the class token kept."""
        hidden = self.visual_tower(pixels)[-1]  # before CLIP's post_layernorm, as the official code takes it
        return cast(Tensor, self.feature_adaptor(self.visual_projector(hidden)))

    @staticmethod
    def pool(features: Tensor) -> Tensor:
        """The aggregator, which has no parameters: [..., t, tokens, D] to [..., t + tokens, D]."""
        return torch.cat([features.mean(-2), features.mean(-3)], -2)


class EventGPT(nn.Module):
    """The whole drafter, sized by its config.json."""

    def __init__(self, clip: ClipConfig, llama: LlamaConfig) -> None:
        super().__init__()
        self.vision = EventGPTVision(clip, llama.hidden_size)
        self.decoder = LlamaDecoder(llama)

    @property
    def visual_tokens(self) -> int:
        """Event tokens of a window of five event frames."""
        return EVENT_FRAMES + self.vision.visual_tower.config.tokens

    @classmethod
    def blueprint(cls, folder: Path, stored: Collection[str], dtype: torch.dtype) -> tuple[EventGPT, Path | None]:
        """The network of a checkpoint on the meta device, from config.json and the tensors' names; and the folder of
        the CLIP checkpoint that its tower's weights come from, None when it holds them itself.

        CLIP's sizes come from `vision_config` in config.json (our own checkpoints) or from the CLIP checkpoint that
        `mm_visual_tower` names (official ones). Raises CheckpointError.
        """
        config = read_config(folder)
        where = place(folder / "config.json")
        if config.get("model_type") != MODEL_TYPE:
            raise CheckpointError(f"{where}: model_type is {config.get('model_type')!r}, not {MODEL_TYPE!r}")
        if config.get("mm_use_im_start_end"):
            raise CheckpointError(f"{where}: mm_use_im_start_end is not supported; use another checkpoint")
        inside = any(name.startswith(TOWER) for name in stored)
        clip, clip_folder = find_tower(config, "mm_visual_tower", folder, inside)
        with torch.device("meta"):
            model = cls(clip, LlamaConfig.from_json(config, where)).to(dtype)
        return model, None if inside else clip_folder

    @classmethod
    def load(cls, folder: Path, dtype: torch.dtype = torch.float32) -> EventGPT:
        """From a published checkpoint folder, in evaluation mode. Raises CheckpointError."""
        read_config(folder)  # a folder without one is no checkpoint: said before anything else
        tensors = load_tensors(folder)
        model, clip_folder = cls.blueprint(folder, tensors, dtype)
        if clip_folder is not None:
            with torch.device("meta"):
                tower = ClipVision(model.vision.visual_tower.config).to(dtype)
            fill(tower, load_tensors(clip_folder), CLIP_NAMES, clip_folder)
            tensors |= {TOWER + name: (tensor, clip_folder) for name, tensor in tower.state_dict().items()}
        fill(model, tensors, NAMES, folder)
        return model.eval()
