"""The model folder as a whole: made beside its place, put there finished; nothing stale or half-made stays."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import get_args

from export.quantize import Packing
from export.weights import BROUGHT
from models.checkpoint import read_config, weight_files
from models.clip import ClipConfig
from models.manifest import MANIFEST

_SIDE_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "model.safetensors.index.json",
)


@contextmanager
def workplace(out: Path) -> Iterator[Path]:
    """A folder beside `out` to export into. It goes in any case, and parents made for an `out` that never came."""
    made = [parent for parent in out.parents if not parent.exists()]  # the innermost first
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as temporary:
            yield Path(temporary)
    finally:
        for parent in made:
            with suppress(OSError):  # it holds something: `out`, or another export
                parent.rmdir()


def move(folder: Path, out: Path, checkpoint: Path, clip: ClipConfig) -> None:
    """Put the finished folder in its place: one rename, or, inside the checkpoint, file by file and the manifest last.

    The checkpoint's own weights, which the folder links to, stay; what an export before this one brought goes.
    """
    if out == checkpoint:
        own = {file.name for file in weight_files(checkpoint)}
        (out / MANIFEST).unlink(missing_ok=True)  # a manifest never describes another export's graphs
        for stale in {BROUGHT, *(f"decoder.{packing}.safetensors" for packing in get_args(Packing))} - own:
            (out / stale).unlink(missing_ok=True)
        for file in sorted(folder.iterdir(), key=lambda file: file.name == MANIFEST):
            if file.name not in own:
                file.replace(out / file.name)
        return
    for side in _SIDE_FILES:
        if (checkpoint / side).is_file():
            shutil.copyfile(checkpoint / side, folder / side)
    config = read_config(checkpoint)
    if "vision_config" not in config:  # official checkpoints name a tower's folder, which is not beside the export
        (folder / "config.json").write_text(json.dumps(config | {"vision_config": asdict(clip)}, indent=2) + "\n")
    folder.chmod(0o755)  # temporary folders are private
    folder.rename(out)
