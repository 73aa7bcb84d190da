"""Reads published checkpoints: config.json, safetensors (one file or shards) and, restricted, PyTorch's .bin.

The configuration and the safetensors headers are read without torch; tensors come as torch tensors, memory-mapped.
Pickles are opened with `weights_only` and nothing else. No tensor is silently dropped or left as it was initialised: a
checkpoint must hold all that its network reads and nothing else but what `Names.unused` lists.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor, nn

Prefixes = Sequence[tuple[str, str]]  # (published prefix, our prefix); the first match wins


class CheckpointError(ModelError):
    """A checkpoint that cannot be used; the message is one line: what, where, what to do."""


def place(path: Path) -> str:
    """How messages name a file: its folder and its name."""
    return f"{path.parent.name}/{path.name}"


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of a checkpoint; CheckpointError when it is missing or malformed."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{place(path)}: no such file; point to the folder of a downloaded checkpoint") from None
    except OSError as error:
        raise CheckpointError(f"{place(path)}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise CheckpointError(f"{place(path)}: not readable as JSON ({error}); download the checkpoint again") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{place(path)}: not a JSON object; download the checkpoint again")
    return content


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a checkpoint folder."""
    return read_json(folder / "config.json")


def setting(config: Mapping[str, Any], key: str, default: Any, kind: type, where: str) -> Any:
    """config[key], or the default, checked to be of that kind and, when a number, positive and finite."""
    value = config.get(key)
    value = default if value is None else value
    if value is None:
        raise CheckpointError(f"{where}: {key} is missing; download the checkpoint again")
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            value = float(value)
        except OverflowError:
            value = math.inf
    if not isinstance(value, kind) or isinstance(value, bool) is not (kind is bool):
        raise CheckpointError(f"{where}: {key} is {value!r}, not {kind.__name__}; download the checkpoint again")
    if isinstance(value, int | float) and kind is not bool and not 0 < value < math.inf:
        raise CheckpointError(
            f"{where}: {key} is {value!r}, which must be positive and finite; download the checkpoint again"
        )
    return value


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the tensors: safetensors before .bin, shards as their index lists them."""
    for single, suffix in (("model.safetensors", "safetensors"), ("pytorch_model.bin", "bin")):
        if (folder / single).is_file():
            return [folder / single]
        index = folder / f"{single}.index.json"
        if not index.is_file():
            continue
        shards = read_json(index).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()) or not shards:
            raise CheckpointError(f"{place(index)}: no weight_map; download the checkpoint again")
        names = sorted(set(shards.values()))
        for name in names:
            if Path(name).name != name or not name.endswith(suffix):
                raise CheckpointError(f"{place(index)}: names {name!r}, which is no {suffix} file beside it")
        files = [folder / name for name in names]
        for file in files:
            if not file.is_file():
                raise CheckpointError(f"{place(file)}: shard missing; download the checkpoint again")
        return files
    raise CheckpointError(f"{folder.name}: no model.safetensors or pytorch_model.bin in this folder; download it again")


@dataclass(frozen=True)
class Names:
    """How one family of checkpoints names its tensors.

    `prefixes` maps published names to ours; `unused` are (start, fragment) pairs of tensors that no computation reads.
    """

    prefixes: Prefixes
    unused: Sequence[tuple[str, str]]

    def ours(self, published: str) -> str | None:
        """Our name of a published tensor; None for one that nothing reads. KeyError when it is unknown."""
        if any(published.startswith(start) and fragment in published for start, fragment in self.unused):
            return None
        for theirs, ours in self.prefixes:
            if published.startswith(theirs):
                return ours + published[len(theirs) :]
        raise KeyError(published)

    def published(self, ours: str, seen: Sequence[str]) -> str:
        """A tensor's name in the layout that the names `seen` follow: what a message should call it."""
        candidates = [(theirs, mine) for theirs, mine in self.prefixes if ours.startswith(mine)]
        used = [pair for pair in candidates if any(name.startswith(pair[0]) for name in seen)]
        theirs, mine = (used or candidates)[0]
        return theirs + ours[len(mine) :]


def load_tensors(folder: Path) -> dict[str, tuple[Tensor, Path]]:
    """Every tensor of a checkpoint by its published name, with the file it lies in; memory-mapped."""
    return {name: (tensor, file) for file in weight_files(folder) for name, tensor in open_tensors(file).items()}


def open_tensors(file: Path) -> dict[str, Tensor]:
    """Every tensor of a safetensors or .bin file by its published name, memory-mapped."""
    import torch
    from safetensors import SafetensorError, safe_open

    try:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as reader:
                content = {name: reader.get_tensor(name) for name in reader.keys()}  # noqa: SIM118, not a mapping
        else:
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=is_zip(file))
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{place(file)}: damaged ({reason[:120]}); download it again") from None
    except Exception as error:  # weights_only refuses with pickle's own error, malformed files with any other
        raise CheckpointError(f"{place(file)}: refused, it holds more than tensors ({type(error).__name__})") from None
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise CheckpointError(f"{place(file)}: refused, it holds more than named tensors")
    return content


def is_zip(file: Path) -> bool:
    """Whether a .bin is in torch's form since 1.6; the one before it cannot be mapped."""
    with file.open("rb") as stream:
        return stream.read(2) == b"PK"


@dataclass(frozen=True)
class Comparison:
    """What a checkpoint holds against what its network reads; published names, in the checkpoint's order."""

    found: dict[str, str]  # our name of each usable tensor to its published one
    missing: list[str]
    unexpected: list[str]
    wrong_shape: list[str]
    unused: list[str]

    @property
    def complete(self) -> bool:
        return not (self.missing or self.unexpected or self.wrong_shape)


def compare(expected: Mapping[str, Sequence[int]], stored: Mapping[str, Sequence[int]], names: Names) -> Comparison:
    """Compare shapes by our names with shapes by published names."""
    result = Comparison({}, [], [], [], [])
    seen = set()
    for published, shape in stored.items():
        try:
            ours = names.ours(published)
        except KeyError:
            ours = ""
        if ours is None:
            result.unused.append(published)
        elif ours not in expected or ours in seen:
            result.unexpected.append(published)
        else:
            seen.add(ours)
            if tuple(shape) == tuple(expected[ours]):
                result.found[ours] = published
            else:
                result.wrong_shape.append(published)
    result.missing.extend(names.published(ours, list(stored)) for ours in expected if ours not in seen)
    return result


def match(
    expected: Mapping[str, Sequence[int]], stored: Mapping[str, tuple[Sequence[int], Path]], names: Names, folder: Path
) -> dict[str, str]:
    """Our name of each expected tensor to its published one; `stored` holds shapes and files by published name.

    Raises CheckpointError for missing and unexpected tensors and for a wrong shape.
    """
    result = compare(expected, {name: shape for name, (shape, _) in stored.items()}, names)
    if result.unexpected:
        file = stored[result.unexpected[0]][1]
        listed = _listed("unexpected tensor", result.unexpected)
        raise CheckpointError(f"{place(file)}: {listed}; config.json does not describe this checkpoint")
    if result.wrong_shape:
        published = result.wrong_shape[0]
        shape, file = stored[published]
        asked = list(expected[names.ours(published) or ""])
        raise CheckpointError(
            f"{place(file)}: tensor {published} has shape {list(shape)}, config.json asks for {asked}; "
            "download the checkpoint again"
        )
    if result.missing:
        files = weight_files(folder)
        file = files[0] if len(files) == 1 else folder / f"{files[0].suffix[1:]} shards"
        raise CheckpointError(
            f"{place(file)}: {_listed('missing tensor', result.missing)}; download the checkpoint again"
        )
    return result.found


def not_finite(file: Path, published: str) -> CheckpointError:
    """What to raise for a tensor with NaN or infinite values."""
    return CheckpointError(
        f"{place(file)}: tensor {published} holds NaN or infinite values; download the checkpoint again"
    )


def fill(module: nn.Module, tensors: Mapping[str, tuple[Tensor, Path]], names: Names, folder: Path) -> None:
    """Give every parameter of a module (made on the meta device) its tensor, converted to the parameter's dtype.

    Raises CheckpointError for missing and unexpected tensors, for a wrong shape and for values that are not finite.
    """
    expected = module.state_dict()
    found = match(
        {name: value.shape for name, value in expected.items()},
        {name: (tensor.shape, file) for name, (tensor, file) in tensors.items()},
        names,
        folder,
    )
    state: dict[str, Tensor] = {}
    for ours, published in found.items():
        tensor, file = tensors[published]
        if not finite(tensor):
            raise not_finite(file, published)
        state[ours] = tensor.to(expected[ours].dtype)
    module.load_state_dict(state, assign=True)


def finite(tensor: Tensor) -> bool:
    """One pass without a temporary: the extremes of a tensor with NaN are NaN."""
    return tensor.numel() == 0 or all(bool(edge.isfinite()) for edge in tensor.aminmax())


def _listed(what: str, names: list[str]) -> str:
    """`missing tensor a`, or with `and 3 more (b, c, …)`."""
    more = f" and {len(names) - 1} more ({', '.join(names[1:3])}{', …' if len(names) > 3 else ''})"
    return f"{what} {names[0]}{more if len(names) > 1 else ''}"
