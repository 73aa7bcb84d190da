"""What a checkpoint is, told from its config.json and its tensors' headers: nothing is loaded.

The network is built on the meta device from the configuration and compared, name by name and shape by shape, with what
the files say they hold.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch

from models.checkpoint import Comparison, compare, load_tensors, place, weight_files
from models.eventgpt import CLIP_NAMES, TOWER
from models.manifest import MANIFEST
from models.networks import network_of
from models.stored import stored_tensors
from models.tokenizer import load_tokenizer

_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_LAYOUTS = (  # a tensor's beginning tells who wrote the checkpoint; the first match wins
    ("model.video_tower.video_tower.", "original"),
    ("model.visual_projector.", "official"),
    ("video_tower.vision_model.", "Hugging Face hub"),
    ("language_model.model.", "newer transformers"),
    ("model.language_model.", "transformers, names as in memory"),
)


@dataclass(frozen=True)
class Header:
    """One tensor as its file describes it."""

    shape: tuple[int, ...]
    dtype: str
    file: Path


@dataclass(frozen=True)
class Inspection:
    """A checkpoint. `comparison` holds published names; `parameters` counts what the network reads."""

    path: Path
    title: str
    role: str
    layout: str
    exported: bool
    vocabulary: int
    tokenizer: str
    dtypes: dict[str, int]  # parameters in each, of all that the files hold
    file_bytes: int
    parameters: int
    sizes: dict[str, dict[str, Any]]
    visual_tokens: int
    temporal_frames: int | None
    comparison: Comparison

    def figures(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        compared = self.comparison
        return {
            "path": str(self.path),
            "model": self.title,
            "role": self.role,
            "layout": self.layout,
            "exported": self.exported,
            "vocabulary": self.vocabulary,
            "tokenizer": self.tokenizer,
            "dtypes": self.dtypes,
            "file_bytes": self.file_bytes,
            "parameters": self.parameters,
            **self.sizes,
            "visual_tokens": self.visual_tokens,
            "temporal_frames": self.temporal_frames,
            "complete": compared.complete,
            "missing": compared.missing,
            "unexpected": compared.unexpected,
            "wrong_shape": compared.wrong_shape,
            "unused": compared.unused,
        }


def headers(folder: Path) -> dict[str, Header]:
    """Every tensor of a checkpoint by its published name. Raises ModelError for a damaged, cut or missing file.

    Safetensors say it in their first bytes; a .bin is unpickled with `weights_only` and its values stay on the disk.
    """
    files = weight_files(folder)
    if files[0].suffix == ".bin":
        return {
            name: Header(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), file)
            for name, (tensor, file) in load_tensors(folder).items()
        }
    return {
        name: Header(tensor.shape, _DTYPES.get(tensor.dtype, tensor.dtype), file)
        for file in files
        for name, tensor in stored_tensors(file).items()
    }


def inspect_checkpoint(folder: Path) -> Inspection:
    """Raises ModelError for a folder that holds no checkpoint of ours, or one with a damaged, cut or missing file."""
    network, stored = network_of(folder), headers(folder)
    model, tower_folder = network.blueprint(folder, stored, torch.float32)
    layout = next((name for start, name in _LAYOUTS if any(key.startswith(start) for key in stored)), "unknown")
    files = sorted({header.file for header in stored.values()})
    layout += f", {len(files)} {files[0].suffix[1:]} file{'s' if len(files) > 1 else ''}" if files else ", empty"
    shapes = {name: header.shape for name, header in stored.items()}
    if tower_folder is not None:
        layout += f", CLIP from {place(tower_folder)}"
        beside = ((CLIP_NAMES.ours(name), header.shape) for name, header in headers(tower_folder).items())
        shapes |= {TOWER + name: shape for name, shape in beside if name is not None}
    dtypes: Counter[str] = Counter()
    for header in stored.values():
        dtypes[header.dtype] += prod(header.shape)
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    tower = model.vision.visual_tower if network.role == "drafter" else model.vision.video_tower
    return Inspection(
        path=folder,
        title=network.title,
        role=network.role,
        layout=layout,
        exported=(folder / MANIFEST).is_file(),
        vocabulary=model.decoder.config.vocab_size,
        tokenizer=_tokenizer(folder),
        dtypes=dict(dtypes.most_common()),
        file_bytes=sum(file.stat().st_size for file in files),
        parameters=sum(prod(shape) for shape in expected.values()),
        sizes={"decoder": dict(vars(model.decoder.config)), "vision": dict(vars(tower.config))},
        visual_tokens=model.visual_tokens,
        temporal_frames=tower.temporal_frames,
        comparison=compare(expected, shapes, network.names),
    )


def _tokenizer(folder: Path) -> str:
    for name in ("tokenizer.json", "tokenizer.model"):
        if (folder / name).is_file():
            return f"{name}, {load_tokenizer(folder).size:,} ids"
    return "none; copy the base model's beside the weights"
