"""The manifest of an exported model: what it is, from which weights, whether the files beside it still are those."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from models.checkpoint import place, read_json
from models.errors import ModelError
from models.stored import sha256

MANIFEST = "manifest.json"
FORMAT = "event-captioner-model/1"
_HASHED_BYTES = 128 << 20  # larger files are compared by size alone: hashing 14 GB at every start would take a minute

_FIELDS: dict[str, type] = {
    "role": str, "name": str, "demo": bool, "network": str, "weights": dict, "graphs": dict, "precision": dict,
    "s_max": int, "frames": int, "visual_tokens": int, "image_size": int, "decoder": dict, "embedding": dict,
}  # fmt: skip


def read_manifest(folder: Path, role: str) -> dict[str, Any]:
    """The manifest of a model folder, checked against the files beside it. Raises ModelError in one line."""
    path = folder / MANIFEST
    if not path.is_file():
        raise ModelError(f"{folder}: no {MANIFEST}; run `event-captioner export` on this checkpoint")
    try:
        manifest = read_json(path)
    except ValueError as error:
        raise ModelError(str(error)) from None
    if manifest.get("format") != FORMAT:
        raise ModelError(
            f"{place(path)}: format {manifest.get('format')!r}, not {FORMAT!r}; export the checkpoint again"
        )
    for field, kind in _FIELDS.items():
        if not isinstance(manifest.get(field), kind):
            raise ModelError(f"{place(path)}: {field} is missing or no {kind.__name__}; export the checkpoint again")
    if manifest["role"] != role:
        raise ModelError(f"{folder}: this model is a {manifest['role']}, not a {role}; swap the two folders")
    for name, entry in {**manifest["weights"], **manifest["graphs"]}.items():
        if not isinstance(entry, dict) or type(entry.get("bytes")) is not int or type(entry.get("sha256")) is not str:
            raise ModelError(f"{place(path)}: {name} has no bytes or no sha256; export the checkpoint again")
        _check_file(folder / name, entry)
    return manifest


def _check_file(file: Path, entry: dict[str, Any]) -> None:
    if not file.is_file():
        raise ModelError(f"{place(file)}: no such file; export the checkpoint again")
    size = file.stat().st_size
    if size != entry["bytes"]:
        raise ModelError(
            f"{place(file)}: {size:,} bytes, the manifest says {entry['bytes']:,}; export the checkpoint again"
        )
    if size <= _HASHED_BYTES and sha256(file) != entry["sha256"]:
        raise ModelError(f"{place(file)}: not the file that the manifest describes; export the checkpoint again")
