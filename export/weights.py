"""The weights beside the graphs: one copy, in the precision they were published in, never more than one in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.checkpoint import Names, finite, is_zip, match, not_finite, open_tensors, weight_files
from models.eventgpt import CLIP_NAMES
from models.inspection import Header, headers
from models.stored import StoredTensor, stored_tensors, write_tensors

_TOWER = "vision.visual_tower."  # what may lie in a CLIP folder beside
_DTYPES = {"float16": ("F16", torch.float16), "bfloat16": ("BF16", torch.bfloat16)}
_SINGLE = ("F32", torch.float32)


@dataclass(frozen=True, slots=True)
class Source:
    """Where a tensor is published: in which file, under which name; and its shape."""

    file: Path
    name: str
    shape: tuple[int, ...]


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
    return {ours: Source(stored[name].file, name, stored[name].shape) for ours, name in found.items()}


def bring_weights(
    checkpoint: Path, sources: Mapping[str, Source], names: Names, copy: Callable[[Path, Path], Any], file: Path
) -> dict[str, StoredTensor]:
    """Put the weights beside `file` and say where each lies, by our name.

    Safetensors are brought as they are, by `copy`. What lies in pickled files, or in a CLIP folder beside, is written
    to the one safetensors `file`, all in the checkpoint's own precision. Raises CheckpointError for NaN and infinite
    values.
    """
    files = weight_files(checkpoint)
    if all(source.file in files and source.file.suffix == ".safetensors" for source in sources.values()):
        copies = {}
        for published in files:
            copy(published, file.parent / published.name)
            copies[published] = stored_tensors(file.parent / published.name)
        weights = {ours: copies[source.file][source.name] for ours, source in sources.items()}
        for ours, tensor in weights.items():
            if tensor.dtype in ("F16", "BF16", "F32") and not tensor.finite():
                raise not_finite(sources[ours].file, tensor.name)
        return weights
    first = next(iter(headers(checkpoint).values()))
    dtype, kind = _DTYPES.get(first.dtype, _SINGLE)
    written = {names.published(ours, []): (dtype, source.shape) for ours, source in sources.items()}
    write_tensors(file, written, (_bytes(tensor.to(kind)) for tensor in _tensors(sources.values())))
    tensors = stored_tensors(file)
    return {ours: tensors[names.published(ours, [])] for ours in sources}


def _tensors(sources: Iterable[Source]) -> Iterator[Tensor]:
    """Each tensor, checked. Its file is mapped anew for each, so that what was read before leaves the memory."""
    opened, content = Path(), {}
    for source in sources:
        mapped = source.file.suffix == ".safetensors" or is_zip(source.file)
        if mapped or source.file != opened:
            opened, content = source.file, open_tensors(source.file)
        tensor = content[source.name]
        if not finite(tensor):
            raise not_finite(source.file, source.name)
        yield tensor


def _bytes(tensor: Tensor) -> NDArray[np.uint8]:
    return tensor.contiguous().view(-1).view(torch.uint8).numpy()
