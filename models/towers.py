"""Where a vision tower is described: in the checkpoint's config.json, a folder that names, or the hub's cache."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.checkpoint import CheckpointError, place, read_config
from models.clip import ClipConfig
from models.errors import ModelError

# Published sizes of the one tower that checkpoints hold without describing it; the tensors are checked against them.
KNOWN = {"clip-vit-large-patch14-336": ClipConfig(1024, 4096, 24, 16, 336, 14, "quick_gelu", 1e-5)}


def find_checkpoint(name: str) -> Path:
    """A folder, or that of a hub id which has been downloaded. Raises ModelError, which says how to get it."""
    if Path(name).is_dir():
        return Path(name)
    if (cached := hub_snapshot(name)) is not None:
        return cached
    if _is_hub_id(name):
        raise ModelError(f"{name}: no such folder, and not in the hub's cache; get it with: hf download {name}")
    raise ModelError(f"{name}: no such folder; name the folder of a checkpoint, or its hub id")


def hub_snapshot(name: str) -> Path | None:
    """The downloaded snapshot of a hub id (`owner/name`) that the main branch points to; None when there is none."""
    if not _is_hub_id(name):
        return None
    home = Path(os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()
    repository = cache / f"models--{name.replace('/', '--')}"
    try:
        snapshot = repository / "snapshots" / (repository / "refs" / "main").read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return snapshot if (snapshot / "config.json").is_file() else None


def find_tower(config: Mapping[str, Any], key: str, folder: Path, inside: bool) -> tuple[ClipConfig, Path | None]:
    """A tower's sizes, and the folder where they were found; None when the checkpoint describes it by itself.

    `config[key]` names a folder (relative to the checkpoint or to what it lies in) or a hub id; `inside` says whether
    the checkpoint holds the tower's tensors. Raises CheckpointError.
    """
    where = place(folder / "config.json")
    own = config.get("vision_config")
    if isinstance(own, dict):
        return ClipConfig.from_json(own, where), None
    named = config.get(key)
    if not isinstance(named, str) or not named:
        raise CheckpointError(f"{where}: neither vision_config nor {key}; download the checkpoint again")
    last = Path(named).name  # checkpoints keep the path of the machine they were trained on
    beside = [root / name for name in (named, last) for root in (folder, folder.parent)]
    for candidate in (*beside, hub_snapshot(named)):
        if candidate is not None and (candidate / "config.json").is_file():
            content = read_config(candidate)
            sizes = content.get("vision_config", content)
            if not isinstance(sizes, dict):
                raise CheckpointError(
                    f"{place(candidate / 'config.json')}: vision_config is no object; download it again"
                )
            return ClipConfig.from_json(sizes, place(candidate / "config.json")), candidate
    if inside and last in KNOWN:
        return KNOWN[last], None
    raise CheckpointError(
        f"{where}: {key} {named!r} is neither a folder here nor in the hub's cache; get it with: hf download {named}"
        if _is_hub_id(named)
        else f"{where}: {key} {named!r} is no folder here; download that CLIP checkpoint and name it"
    )


def _is_hub_id(name: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", name) is not None
