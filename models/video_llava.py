"""Video-LLaVA, the target, in both forms that are published.

`Video-LLaVA-7B-hf` (transformers' VideoLlavaForConditionalGeneration) encodes every frame alone. The original
(LanguageBind/Video-LLaVA-7B) attends over time in its video tower, which the port dropped: another network.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from models.checkpoint import CheckpointError, Names, fill, load_tensors, place, read_config
from models.clip import ClipConfig, ClipVision
from models.llama import LlamaConfig, LlamaDecoder
from models.towers import find_tower

MODEL_TYPE = "video_llava"
ORIGINAL_TYPE = "llava"
FRAMES = 8
TEMPORAL = ".encoder.layers.0.temporal_embedding"

NAMES = Names(  # the hub's layout, the newest save_pretrained's, and the in-memory one
    prefixes=(
        ("video_tower.vision_model.", "vision.video_tower."),
        ("video_tower.", "vision.video_tower."),
        ("model.video_tower.vision_model.", "vision.video_tower."),
        ("model.video_tower.", "vision.video_tower."),
        ("multi_modal_projector.", "vision.multi_modal_projector."),
        ("model.multi_modal_projector.", "vision.multi_modal_projector."),
        ("language_model.model.", "decoder.model."),
        ("model.language_model.", "decoder.model."),
        ("language_model.lm_head.", "decoder.lm_head."),
        ("lm_head.", "decoder.lm_head."),
    ),
    unused=(
        ("image_tower.", ""),  # for single images; it may be absent
        ("model.image_tower.", ""),
        ("", "post_layernorm."),  # hidden_states[-2] comes before it
        ("", "embeddings.position_ids"),
        ("", "rotary_emb.inv_freq"),
    ),
)
ORIGINAL_NAMES = Names(
    prefixes=(
        ("model.video_tower.video_tower.", "vision.video_tower."),
        ("model.mm_projector.0.", "vision.multi_modal_projector.linear_1."),
        ("model.mm_projector.2.", "vision.multi_modal_projector.linear_2."),
        ("model.embed_tokens.", "decoder.model.embed_tokens."),
        ("model.layers.", "decoder.model.layers."),
        ("model.norm.", "decoder.model.norm."),
        ("lm_head.", "decoder.lm_head."),
    ),
    unused=(
        ("model.image_tower.", ""),
        ("model.video_tower.", "post_layernorm."),
        ("model.video_tower.", "embeddings.position_ids"),
        ("model.", "rotary_emb.inv_freq"),
    ),
)


class Projector(nn.Module):
    """linear_1, exact GELU, linear_2."""

    def __init__(self, inner: int, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(inner, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.linear_2(nn.functional.gelu(self.linear_1(x))))


class VideoLlavaVision(nn.Module):
    """RGB frames to video tokens."""

    def __init__(self, clip: ClipConfig, width: int, temporal_frames: int | None = None) -> None:
        super().__init__()
        self.video_tower = ClipVision(clip, temporal_frames)
        self.multi_modal_projector = Projector(clip.hidden_size, width)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels [N, 3, H, W] to [N · tokens, D], frame after frame, each with its class token.

        N is any number, but all eight frames where the tower attends over time.
        """
        return self.features(pixels).flatten(0, 1)

    def features(self, pixels: Tensor) -> Tensor:
        """Pixels [N, 3, H, W] to [N, tokens, D]."""
        layers = self.video_tower.config.num_hidden_layers - 1  # hidden_states[-2]: the last layer is never run
        return cast(Tensor, self.multi_modal_projector(self.video_tower(pixels, layers)[-1]))


class VideoLlava(nn.Module):
    """The whole target, sized by its config.json."""

    def __init__(self, clip: ClipConfig, llama: LlamaConfig, temporal_frames: int | None = None) -> None:
        super().__init__()
        self.vision = VideoLlavaVision(clip, llama.hidden_size, temporal_frames)
        self.decoder = LlamaDecoder(llama)

    @property
    def visual_tokens(self) -> int:
        """Video tokens of a window of eight frames (configurations do not always state it)."""
        return FRAMES * self.vision.video_tower.config.tokens

    @classmethod
    def blueprint(cls, folder: Path, stored: Mapping[str, Any], dtype: torch.dtype) -> tuple[VideoLlava, None]:
        """The network of a checkpoint on the meta device, from config.json and its tensors (whatever has a `shape`, by
        published name): attention over time is there when they have it. No tower comes from elsewhere.

        Raises CheckpointError.
        """
        config = read_config(folder)
        where = place(folder / "config.json")
        kind = config.get("model_type")
        if kind == ORIGINAL_TYPE and isinstance(config.get("mm_video_tower"), str):
            clip, llama = _original(config, folder, where)
        elif kind == MODEL_TYPE:
            clip, llama = _port(config, where)
        else:
            raise CheckpointError(
                f"{where}: model_type is {kind!r}, not {MODEL_TYPE!r} (or {ORIGINAL_TYPE!r} with mm_video_tower)"
            )
        temporal = next((stored[name].shape[1] for name in stored if name.endswith(TEMPORAL)), None)
        if temporal not in (None, FRAMES):
            raise CheckpointError(f"{where}: attention over {temporal} frames is not supported, only over {FRAMES}")
        with torch.device("meta"):
            return cls(clip, llama, temporal).to(dtype), None

    @classmethod
    def load(cls, folder: Path, dtype: torch.dtype = torch.float32) -> VideoLlava:
        """From a published checkpoint folder of any layout, in evaluation mode. Raises CheckpointError."""
        config = read_config(folder)
        tensors = load_tensors(folder)
        model, _ = cls.blueprint(folder, {name: tensor for name, (tensor, _) in tensors.items()}, dtype)
        fill(model, tensors, ORIGINAL_NAMES if config["model_type"] == ORIGINAL_TYPE else NAMES, folder)
        return model.eval()


def _port(config: Mapping[str, Any], where: str) -> tuple[ClipConfig, LlamaConfig]:
    text, vision = config.get("text_config"), config.get("vision_config")
    if not isinstance(text, dict) or not isinstance(vision, dict):
        raise CheckpointError(f"{where}: text_config or vision_config is missing; download the checkpoint again")
    layer, act = config.get("vision_feature_layer", -2), config.get("projector_hidden_act", "gelu")
    if (layer, act) != (-2, "gelu"):
        found = f"vision_feature_layer {layer!r} with projector_hidden_act {act!r}"
        raise CheckpointError(f"{where}: {found} is not supported, only -2 with 'gelu'; use another checkpoint")
    return ClipConfig.from_json(vision, where), LlamaConfig.from_json(text, where)


def _original(config: Mapping[str, Any], folder: Path, where: str) -> tuple[ClipConfig, LlamaConfig]:
    """The tower is described in its own checkpoint alone: its activation is not the one that the port assumes."""
    for key, wanted in (
        ("mm_vision_select_layer", -2),
        ("mm_projector_type", "mlp2x_gelu"),
        ("mm_use_im_start_end", False),
    ):
        if config.get(key, wanted) != wanted:
            raise CheckpointError(
                f"{where}: {key} {config[key]!r} is not supported, only {wanted!r}; use another checkpoint"
            )
    clip, _ = find_tower(config, "mm_video_tower", folder, inside=True)
    return clip, LlamaConfig.from_json(config, where)
