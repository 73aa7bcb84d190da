"""Safetensors files as NumPy reads them: a header that does not fit its bytes is one line, as is a full disk."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.errors import ModelError
from models.stored import stored_tensors, write_tensors


def write(file: Path, header: Any, values: int, length: int | None = None) -> Path:
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + bytes(values))
    return file


def test_shapes_come_from_the_header_alone(tmp_path: Path) -> None:
    values = [np.zeros((2, 3), np.float16), np.ones((), np.float32)]
    write_tensors(tmp_path / "a.safetensors", {"x": ("F16", (2, 3)), "y": ("F32", ())}, values)
    stored = stored_tensors(tmp_path / "a.safetensors")
    assert {name: (tensor.dtype, tensor.shape, tensor.length) for name, tensor in stored.items()} == {
        "x": ("F16", (2, 3), 12),
        "y": ("F32", (), 4),
    }
    assert stored["y"].read() == 1


@pytest.mark.parametrize(("shape", "length"), [([2, 3], 20), ([2, 3], 28), ([2, -3], 24), ([], 0)])
def test_a_shape_that_its_bytes_do_not_hold(tmp_path: Path, shape: list[int], length: int) -> None:
    header = {"x": {"dtype": "F32", "shape": shape, "data_offsets": [0, length]}}
    with pytest.raises(ModelError, match=rf"damaged safetensors file \(tensor x: {length} bytes for F32 \["):
        stored_tensors(write(tmp_path / "a.safetensors", header, 32))


def test_a_dtype_that_no_network_reads_is_no_damage(tmp_path: Path) -> None:
    header = {"x": {"dtype": "F6_E2M3", "shape": [4], "data_offsets": [0, 3]}}
    assert stored_tensors(write(tmp_path / "a.safetensors", header, 3))["x"].dtype == "F6_E2M3"


def test_a_header_longer_than_the_format_allows_is_not_read(tmp_path: Path) -> None:
    file = write(tmp_path / "a.safetensors", {}, 0, 100_000_001)
    with file.open("r+b") as stream:
        stream.truncate(200_000_000)  # a hole, which takes no disk
    with pytest.raises(ModelError, match="the header is too long"):
        stored_tensors(file)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
def test_a_full_disk_is_one_line_that_names_the_file() -> None:
    with pytest.raises(ModelError, match=r"/dev/full: cannot be written: No space left on device; name a folder with"):
        write_tensors(Path("/dev/full"), {"x": ("F32", (100_000,))}, [np.zeros(100_000, np.float32)])
