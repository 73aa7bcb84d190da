"""The weights beside the graphs: one copy, each in the precision it was published in, one in memory at a time.

But for a .bin in the form before torch 1.6, which cannot be mapped and is in memory whole.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.checkpoint import Names, finite, is_zip, match, not_finite, open_tensors, weight_files
from models.errors import ModelError
from models.eventgpt import CLIP_NAMES
from models.inspection import Header, headers
from models.stored import DTYPE_BYTES, StoredTensor, stored_tensors, write_tensors

_TOWER = "vision.visual_tower."  # what may lie in a CLIP folder beside
_DTYPES = {"float16": "F16", "bfloat16": "BF16"}  # all else is written as float32
_TORCH = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}
BROUGHT = "weights.safetensors"  # of an export in place: nothing reads this name as the checkpoint's own


@dataclass(frozen=True, slots=True)
class Source:
    """Where a tensor is published: in which file, under which name; its shape, and the dtype that it is brought in."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: str


def find_weights(
    model: nn.Module, checkpoint: Path, stored: Mapping[str, Header], tower: Path | None, names: Names
) -> dict[str, Source]:
    """The source of each of the network's tensors, by our name; `tower` is the CLIP folder that holds the tower's.

    Raises CheckpointError, as loading does, unless they are all there, in shape, and nothing else is.
    """
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found: dict[str, Source] = {}
    if tower is not None:
        inner = {name.removeprefix(_TOWER): shape for name, shape in expected.items() if name.startswith(_TOWER)}
        beside = headers(tower)
        found = {_TOWER + ours: source for ours, source in _match(inner, beside, CLIP_NAMES, tower).items()}
    rest = {name: shape for name, shape in expected.items() if name not in found}
    return found | _match(rest, stored, names, checkpoint)


def _match(
    expected: Mapping[str, tuple[int, ...]], stored: Mapping[str, Header], names: Names, folder: Path
) -> dict[str, Source]:
    found = match(expected, {name: (header.shape, header.file) for name, header in stored.items()}, names, folder)
    of = {ours: stored[name] for ours, name in found.items()}
    return {
        ours: Source(header.file, found[ours], header.shape, _DTYPES.get(header.dtype, "F32"))
        for ours, header in of.items()
    }


def bring_weights(
    checkpoint: Path, sources: Mapping[str, Source], names: Names, folder: Path, in_place: bool
) -> dict[str, StoredTensor]:
    """Put the weights into a folder and say where each lies, by our name. `in_place`: for an export in `checkpoint`.

    Safetensors are brought as they are: copied or, in place, linked to. What lies in pickled files, or in a CLIP folder
    beside, is written to one safetensors file, each tensor in its own precision. Raises CheckpointError for NaN and
    infinite values, ModelError where the disk has no room.
    """
    files = weight_files(checkpoint)
    if all(source.file in files and source.file.suffix == ".safetensors" for source in sources.values()):
        if not in_place:
            _need_room(folder, sum(file.stat().st_size for file in files))
        copies = {}
        for published in files:
            (_link if in_place else shutil.copyfile)(published, folder / published.name)
            copies[published] = stored_tensors(folder / published.name)
        weights = {ours: copies[source.file][source.name] for ours, source in sources.items()}
        for ours, tensor in weights.items():
            if tensor.dtype in _TORCH and not tensor.finite():
                raise not_finite(sources[ours].file, tensor.name)
        return weights
    _need_room(folder, sum(prod(source.shape) * DTYPE_BYTES[source.dtype] for source in sources.values()))
    file = folder / (BROUGHT if in_place else "model.safetensors")
    written = {names.published(ours, []): (source.dtype, source.shape) for ours, source in sources.items()}
    write_tensors(file, written, map(_bytes, _tensors(sources.values())))
    tensors = stored_tensors(file)
    return {ours: tensors[names.published(ours, [])] for ours in sources}


def _need_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ModelError(
            f"{folder.parent}: the weights need {needed / 1e9:.1f} GB of disk, {free / 1e9:.1f} GB are free; "
            "free some, or name an OUT on another disk"
        )


def _link(source: Path, target: Path) -> None:
    """For the parity check of an export in place; finished folders hold files, since onnx refuses hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _tensors(sources: Iterable[Source]) -> Iterator[Tensor]:
    """Each tensor, as it will be written, checked.

    Its file is mapped anew for each, so that what was read before leaves the memory.
    """
    opened, content = Path(), {}
    for source in sources:
        mapped = source.file.suffix == ".safetensors" or is_zip(source.file)
        if mapped or source.file != opened:
            opened, content = source.file, open_tensors(source.file)
        tensor = content[source.name].to(_TORCH[source.dtype])
        if not finite(tensor):  # after the conversion, which may be what made it infinite
            raise not_finite(source.file, source.name)
        yield tensor


def _bytes(tensor: Tensor) -> NDArray[np.uint8]:
    return tensor.contiguous().view(-1).view(torch.uint8).numpy()
