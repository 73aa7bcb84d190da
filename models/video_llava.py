"""Video-LLaVA, the target, as transformers ports it (VideoLlavaForConditionalGeneration): every frame is encoded alone.

The original checkpoint (LanguageBind/Video-LLaVA-7B) has temporal attention in its tower and is another network.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from models.checkpoint import CheckpointError, Names, fill, load_tensors, place, read_config
from models.clip import ClipConfig, ClipVision
from models.llama import LlamaConfig, LlamaDecoder

MODEL_TYPE = "video_llava"
FRAMES = 8

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

    def __init__(self, clip: ClipConfig, width: int) -> None:
        super().__init__()
        self.video_tower = ClipVision(clip)
        self.multi_modal_projector = Projector(clip.hidden_size, width)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels [N, 3, H, W] to [N · tokens, D], frame after frame, each with its class token."""
        return self.features(pixels).flatten(0, 1)

    def features(self, pixels: Tensor) -> Tensor:
        """Pixels [N, 3, H, W] to [N, tokens, D]."""
        layers = self.video_tower.config.num_hidden_layers - 1  # hidden_states[-2]: the last layer is never run
        return cast(Tensor, self.multi_modal_projector(self.video_tower(pixels, layers)[-1]))


class VideoLlava(nn.Module):
    """The whole target, sized by its config.json."""

    def __init__(self, clip: ClipConfig, llama: LlamaConfig) -> None:
        super().__init__()
        self.vision = VideoLlavaVision(clip, llama.hidden_size)
        self.decoder = LlamaDecoder(llama)

    @property
    def visual_tokens(self) -> int:
        """Video tokens of a window of eight frames (configurations do not always state it)."""
        return FRAMES * self.vision.video_tower.config.tokens

    @classmethod
    def load(cls, folder: Path, dtype: torch.dtype = torch.float32) -> VideoLlava:
        """From a published checkpoint folder of any layout, in evaluation mode. Raises CheckpointError."""
        config = read_config(folder)
        where = place(folder / "config.json")
        if config.get("model_type") != MODEL_TYPE:
            raise CheckpointError(f"{where}: model_type is {config.get('model_type')!r}, not {MODEL_TYPE!r}")
        text, vision = config.get("text_config"), config.get("vision_config")
        if not isinstance(text, dict) or not isinstance(vision, dict):
            raise CheckpointError(f"{where}: text_config or vision_config is missing; download the checkpoint again")
        layer, act = config.get("vision_feature_layer", -2), config.get("projector_hidden_act", "gelu")
        if (layer, act) != (-2, "gelu"):
            found = f"vision_feature_layer {layer!r} with projector_hidden_act {act!r}"
            raise CheckpointError(f"{where}: {found} is not supported, only -2 with 'gelu'; use another checkpoint")
        with torch.device("meta"):
            model = cls(ClipConfig.from_json(vision, where), LlamaConfig.from_json(text, where)).to(dtype)
        fill(model, load_tensors(folder), NAMES, folder)
        return model.eval()
