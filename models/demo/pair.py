"""The demo pair as networks and as published-style checkpoint folders (float16 safetensors, config.json, tokenizer)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models import eventgpt, video_llava
from models.checkpoint import Names
from models.clip import ClipConfig, ClipVision
from models.demo.recipe import (
    DRAFTER_DECODER,
    DRAFTER_TOWER,
    IMAGE_ID,
    PAD_ID,
    TARGET_DECODER,
    TARGET_TOWER,
    VIDEO_ID,
)
from models.eventgpt import EventGPT
from models.llama import LlamaConfig, LlamaDecoder
from models.video_llava import FRAMES, VideoLlava

WHITE = (1.9303361, 2.0748837, 2.1458969)  # 255 after CLIP's normalisation


def new_target(seed: int) -> VideoLlava:
    """An untrained target."""
    torch.manual_seed(seed)
    model = VideoLlava(TARGET_TOWER, TARGET_DECODER)
    _begin_tower(model.vision.video_tower, (0.0, 0.0, 0.0))
    _begin_decoder(model.decoder)
    return model


def new_drafter(seed: int) -> EventGPT:
    """An untrained drafter, whose tower starts out blind to the white ground of event frames."""
    torch.manual_seed(seed)
    model = EventGPT(DRAFTER_TOWER, DRAFTER_DECODER)
    _begin_tower(model.vision.visual_tower, WHITE)
    _begin_decoder(model.decoder)
    return model


def save_target(model: VideoLlava, folder: Path, tokenizer: Path) -> None:
    """Write a checkpoint that transformers' VideoLlavaForConditionalGeneration loads too."""
    config = {
        "architectures": ["VideoLlavaForConditionalGeneration"],
        "model_type": video_llava.MODEL_TYPE,
        "image_token_index": IMAGE_ID,
        "video_token_index": VIDEO_ID,
        "image_seq_length": TARGET_TOWER.tokens - 1,
        "video_seq_length": FRAMES * TARGET_TOWER.tokens,
        "projector_hidden_act": "gelu",
        "multimodal_projector_bias": True,
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "text_config": {"model_type": "llama", "pad_token_id": PAD_ID, **_llama_json(TARGET_DECODER)},
        "vision_config": _clip_json(TARGET_TOWER),
    }
    _save(model, video_llava.NAMES, config, folder, tokenizer)


def save_drafter(model: EventGPT, folder: Path, tokenizer: Path) -> None:
    """Write a checkpoint in EventGPT's layout; CLIP's sizes are in config.json itself, under `vision_config`."""
    config = {
        "architectures": ["EventChatModel"],
        "model_type": eventgpt.MODEL_TYPE,
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "use_feature_adaptor": True,
        "torch_dtype": "float16",
        "pad_token_id": 0,
        **_llama_json(DRAFTER_DECODER),
        "vision_config": _clip_json(DRAFTER_TOWER),
    }
    _save(model, eventgpt.NAMES, config, folder, tokenizer)


def round_to_half(model: nn.Module) -> None:
    """Give every weight the value that its float16 file will hold, so that what is measured is what is shipped."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.half().float())


def _begin_tower(tower: ClipVision, ground: tuple[float, float, float]) -> None:
    """Positions large enough to be seen beside the patches, and a ground colour that comes out as zero.

    CLIP's patch embedding has no bias, so the ground is taken off the position embeddings.
    """
    embeddings = tower.embeddings
    nn.init.normal_(embeddings.position_embedding.weight, std=0.2)
    with torch.no_grad():
        kernel = embeddings.patch_embedding.weight.sum((2, 3))  # [C, 3]
        embeddings.position_embedding.weight[1:] -= kernel @ torch.tensor(ground)


def _begin_decoder(decoder: LlamaDecoder) -> None:
    nn.init.normal_(decoder.model.embed_tokens.weight, std=0.1)
    nn.init.normal_(decoder.lm_head.weight, std=0.02)


def _save(model: nn.Module, names: Names, config: dict[str, Any], folder: Path, tokenizer: Path) -> None:
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {names.published(name, []): value.half().contiguous() for name, value in model.state_dict().items()}
    partial = folder / "partial.safetensors"
    save_file(tensors, partial, metadata={"format": "pt"})
    partial.rename(folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    shutil.copyfile(tokenizer, folder / "tokenizer.json")


def _llama_json(config: LlamaConfig) -> dict[str, Any]:
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "max_position_embeddings": config.max_position_embeddings,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": False,
    }


def _clip_json(config: ClipConfig) -> dict[str, Any]:
    return {
        "model_type": "clip_vision_model",
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "hidden_act": config.hidden_act,
        "layer_norm_eps": config.layer_norm_eps,
    }
