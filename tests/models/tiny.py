"""A tiny random pair in the official layouts, exported: what property tests of decoding run on.

The exported graphs hold no weights, so they are made once (half a minute); a seed only writes weights beside them.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from export.checkpoint import export_checkpoint
from models.clip import ClipConfig
from models.eventgpt import EventGPT
from models.llama import LlamaConfig
from models.manifest import MANIFEST
from models.networks import NETWORKS
from models.stored import sha256
from models.video_llava import VideoLlava
from tests.kept import kept, traced_once

WIDTH, LAYERS, S_MAX = 32, 2, 160
VOCABULARY = {"drafter": 96, "target": 128}  # as in the real pair, the target has rows beyond the shared vocabulary
MODEL_TYPE = {"drafter": "EventChat_llama", "target": "video_llava"}
CLIP = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
TEXT = """
a the is and of to on in red green blue yellow car ball person dog moves stands turns left right up down fast slow near
far behind before one two three big small across toward away road wall tree What happens around robot ? USER : ASSISTANT
. , <ev_start> <ev_end> scene nothing still
"""
WORDS = TEXT.split()


def make_pair(folder: Path, seed: int = 0) -> tuple[Path, Path]:
    """Write and export `drafter` and `target` under `folder`: float16, 2 layers, 32 wide. Returns both folders."""
    return make_model(folder / "drafter", "drafter", seed), make_model(folder / "target", "target", seed)


def make_model(folder: Path, role: str, seed: int = 0) -> Path:
    """One model of that seed."""
    shutil.copytree(_exported(role), folder)
    _write_weights(folder, role, seed)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["weights"]["model.safetensors"]["sha256"] = sha256(folder / "model.safetensors")
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


def write_checkpoint(folder: Path, role: str, seed: int = 0) -> Path:
    """The checkpoint alone, not exported."""
    folder.mkdir(parents=True)
    llama = _llama(role)
    sizes = {name: value for name, value in vars(llama).items() if name != "head_dim"}
    if role == "drafter":
        config = {"model_type": MODEL_TYPE[role], **sizes, "vision_config": CLIP}
    else:
        config = {
            "model_type": MODEL_TYPE[role],
            "text_config": sizes,
            "vision_config": CLIP,
            "vision_feature_layer": -2,
        }
    (folder / "config.json").write_text(json.dumps(config))
    pieces = [f"▁{word}" for word in dict.fromkeys(WORDS)]
    vocabulary = {piece: i for i, piece in enumerate(["<unk>", "<s>", "</s>", *pieces])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_weights(folder, role, seed)
    return folder


def _llama(role: str) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=VOCABULARY[role], hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=LAYERS,
        num_attention_heads=2, num_key_value_heads=2, head_dim=WIDTH // 2, rms_norm_eps=1e-5, rope_theta=1e4,
        max_position_embeddings=512,
    )  # fmt: skip


def _write_weights(folder: Path, role: str, seed: int) -> None:
    """Random weights, spread wide enough that captions vary and logits are far apart."""
    model = (EventGPT if role == "drafter" else VideoLlava)(ClipConfig(**CLIP), _llama(role))  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(seed)
    names = NETWORKS[MODEL_TYPE[role]].names
    state = {}
    for name, value in model.state_dict().items():
        random = torch.randn(value.shape, generator=generator)
        scale = 1.0 if value.ndim == 1 or "embed" in name else 1.5 * value[0].numel() ** -0.5
        norm = "norm" in name and name.endswith("weight")
        state[names.published(name, [])] = (1 + random / 10 if norm else random * scale).half()
    save_file(state, folder / "model.safetensors", {"format": "pt"})


@cache
def _exported(role: str) -> Path:
    """The exported model of seed 0."""

    def export(out: Path) -> None:
        with tempfile.TemporaryDirectory() as folder, traced_once():
            checkpoint = write_checkpoint(Path(folder) / "checkpoint", role)
            export_checkpoint(checkpoint, out, S_MAX, demo=True, name=f"tiny-{role}", report=lambda line: None)

    return kept(f"tiny-{role}", export)
