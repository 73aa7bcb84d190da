"""The engines beside an exported model, and their manifest: built by what, for which GPU, from which graphs.

An engine that another TensorRT or another GPU made, or that was made of other graphs, is refused here in one line,
before anything is loaded: TensorRT itself may only say so after seconds, in many lines, or not at all.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from models.checkpoint import place, read_json
from models.errors import ModelError
from models.stored import sha256

ENGINES = "engines.json"
FORMAT = "event-captioner-engines/2"
_HASHED_BYTES = 128 << 20


@dataclass(frozen=True, slots=True)
class EngineSet:
    """What `engines.json` says."""

    library: str  # "tensorrt_rtx 1.7.1.116"
    precision: str
    capability: str  # of the GPU, "8.9"
    gpu: str | None  # its name; None when built for a named capability, without a GPU
    graphs: dict[str, str]  # file to SHA-256: what the engines were built from
    engines: dict[str, dict[str, Any]]  # name to file, bytes, sha256
    profiles: dict[str, list[list[int]]]  # name of the engine to (least, usual, most) rows of each profile
    most_rows: int  # of logits that one pass gives
    chunk: int  # tokens at most in one pass
    parity: dict[str, float] = field(default_factory=dict)  # against ONNX Runtime, by stage; empty: not compared
    format: str = field(default=FORMAT)

    def write(self, folder: Path) -> None:
        (folder / ENGINES).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


def read_engines(folder: Path, library: str, capability: str, gpu: str) -> EngineSet:
    """The engines of a model folder, for a TensorRT (`tensorrt_rtx 1.7.1.116`) and a GPU. Raises ModelError."""
    path = folder / ENGINES
    if not path.is_file():
        raise ModelError(f"{folder}: no engines; {remedy(folder)}")
    try:
        data = read_json(path)
        found = EngineSet(**data)
        if not _well_formed(found):
            raise ValueError
    except (ValueError, TypeError):
        raise ModelError(f"{place(path)}: not a manifest of engines; {remedy(folder)}") from None
    again = remedy(folder, found.precision)
    if found.format != FORMAT:
        raise ModelError(f"{place(path)}: format {found.format!r}, not {FORMAT!r}; {again}")
    if found.library != library:
        raise ModelError(f"{place(path)}: built by {found.library}, installed is {library}; {again}")
    if found.capability != capability or found.gpu not in (None, gpu):
        made_for = found.gpu or "a GPU"
        raise ModelError(
            f"{place(path)}: built for {made_for} (compute capability {found.capability}), this is {gpu} "
            f"({capability}); {again}"
        )
    for name, digest in found.graphs.items():
        if not (folder / name).is_file() or sha256(folder / name) != digest:
            raise ModelError(f"{place(path)}: {name} is not the graph that the engines were built from; {again}")
    for entry in found.engines.values():
        _check_engine(folder / str(entry.get("file")), entry, again)
    return found


def remedy(folder: Path, precision: str = "fp16") -> str:
    """What builds the engines of a folder on this machine."""
    return f"run `event-captioner export {folder} {folder} --runtime tensorrt --precision {precision}` on this machine"


def _well_formed(found: EngineSet) -> bool:
    """Whether the parts that are looked up by name are there, so that a damaged manifest is one line."""
    if not all(isinstance(part, dict) for part in (found.graphs, found.engines, found.profiles)):
        return False
    entries, profiles = found.engines.values(), found.profiles.values()
    return all(isinstance(entry, dict) for entry in entries) and all(isinstance(p, list) and p for p in profiles)


def _check_engine(file: Path, entry: dict[str, Any], again: str) -> None:
    if not file.is_file():
        raise ModelError(f"{place(file)}: no such file; {again}")
    size = file.stat().st_size
    if size != entry.get("bytes") or (size <= _HASHED_BYTES and sha256(file) != entry.get("sha256")):
        raise ModelError(f"{place(file)}: not the engine that {ENGINES} describes; {again}")
