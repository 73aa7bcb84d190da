"""Where each tensor lies in a safetensors file, and reading one with NumPy: for graphs and runtimes, no torch."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.checkpoint import place
from models.errors import ModelError

_NUMPY = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}
_EXPONENT = {"F32": 0x7F800000, "F16": 0x7C00, "BF16": 0x7F80}  # all ones there: infinite, or not a number
DTYPE_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "I64": 8, "U8": 1, "F8_E4M3": 1}
_PART_BYTES = 16 << 20
_MAX_HEADER_BYTES = 100_000_000  # what the safetensors format itself allows


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor of a file: its dtype (safetensors' name), shape, and bytes [offset, offset + length)."""

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    length: int

    def map(self) -> NDArray[Any]:
        """The stored values, memory-mapped and read-only; bfloat16 as its raw uint16."""
        if self.dtype not in _NUMPY:
            raise ModelError(
                f"{place(self.file)}: tensor {self.name} is {self.dtype}; float16, bfloat16 or float32 expected"
            )
        mapped = np.memmap(self.file, _NUMPY[self.dtype], "r", self.offset, self.shape)
        return np.asarray(mapped)  # plain: looking rows up in a memmap runs its Python code each time

    def read(self) -> NDArray[np.float32]:
        """The values as float32, in memory of their own. (Mapped pages would count as the process's memory.)"""
        values = np.fromfile(self.file, _NUMPY[self.dtype], prod(self.shape), offset=self.offset)
        return self.widen(values).reshape(self.shape)

    def finite(self) -> bool:
        """Whether no value is NaN or infinite; read in parts, whatever the tensor's size."""
        mask = _EXPONENT[self.dtype]
        with self.file.open("rb") as stream:
            stream.seek(self.offset)
            for begin in range(0, self.length, _PART_BYTES):
                part = stream.read(min(_PART_BYTES, self.length - begin))
                bits: NDArray[Any] = np.frombuffer(part, np.uint32 if self.dtype == "F32" else np.uint16)
                if bool((np.bitwise_and(bits, mask) == mask).any()):
                    return False
        return True

    def widen(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Values of `map` (any part of them) as float32."""
        if self.dtype == "BF16":
            return (values.astype(np.uint32) << 16).view(np.float32)
        return values.astype(np.float32)


def stored_tensors(file: Path) -> dict[str, StoredTensor]:
    """Every tensor of a safetensors file by name, from its header. Raises ModelError for a damaged or short file."""
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            (header_length,) = struct.unpack("<Q", stream.read(8))
            if header_length > size:
                raise ValueError("the header is cut")
            if header_length > _MAX_HEADER_BYTES:
                raise ValueError("the header is too long")
            header = json.loads(stream.read(header_length))
        tensors = {}
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            begin, end = (8 + header_length + int(edge) for edge in entry["data_offsets"])
            if not begin <= end <= size:
                raise ValueError(f"tensor {name} is cut")
            shape = tuple(int(n) for n in entry["shape"])
            dtype = str(entry["dtype"])
            if dtype in DTYPE_BYTES and end - begin != prod(shape) * DTYPE_BYTES[dtype]:
                raise ValueError(f"tensor {name}: {end - begin} bytes for {dtype} {list(shape)}")
            tensors[name] = StoredTensor(file, name, dtype, shape, begin, end - begin)
    except FileNotFoundError:
        raise ModelError(f"{place(file)}: no such file; copy the checkpoint again") from None
    except (OSError, ValueError, struct.error, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{place(file)}: damaged safetensors file ({error}); copy the checkpoint again") from None
    return tensors


def write_tensors(
    file: Path, tensors: Mapping[str, tuple[str, tuple[int, ...]]], values: Iterable[NDArray[Any]]
) -> None:
    """A safetensors file from names with dtype (safetensors' name) and shape, and their values in the same order.

    One tensor is in memory at a time when `values` makes them as they are asked for. Raises ModelError when the file
    cannot be written.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape) in tensors.items():
        begin, end = end, end + prod(shape) * DTYPE_BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # as the format asks: the values begin at a multiple of 8
    try:
        with file.open("wb") as stream:
            stream.write(struct.pack("<Q", len(text)) + text)
            for (name, (dtype, shape)), value in zip(tensors.items(), values, strict=True):
                if value.nbytes != prod(shape) * DTYPE_BYTES[dtype]:
                    raise ValueError(f"tensor {name}: {value.nbytes} bytes for {dtype} {list(shape)}")
                stream.write(np.ascontiguousarray(value).data)
    except OSError as error:
        needed = (8 + len(text) + end) / 1e9
        raise ModelError(
            f"{file}: cannot be written: {error.strerror}; name a folder with {needed:.1f} GB of room"
        ) from None


def sha256(file: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
