"""An engine is used on the GPU and by the TensorRT that it was built for, of the graphs beside it, or not at all."""

from dataclasses import replace
from pathlib import Path

import pytest

from models.errors import ModelError
from models.runtimes.engine_files import ENGINES, EngineSet, read_engines
from models.stored import sha256

LIBRARY, CAPABILITY, GPU = "tensorrt_rtx 1.7.1.116", "8.9", "NVIDIA L4"
AGAIN = "run `event-captioner export .* --runtime tensorrt --precision int4` on this machine"


@pytest.fixture
def engines(tmp_path: Path) -> EngineSet:
    (tmp_path / "decoder.onnx").write_bytes(b"graph")
    (tmp_path / "decoder.engine").write_bytes(b"engine")
    digest = sha256(tmp_path / "decoder.engine")
    found = EngineSet(
        LIBRARY, "int4", CAPABILITY, GPU, {"decoder.onnx": sha256(tmp_path / "decoder.onnx")},
        {"decoder": {"file": "decoder.engine", "bytes": 6, "sha256": digest}}, {"decoder": [[1, 1, 1]]}, 32, 160,
    )  # fmt: skip
    found.write(tmp_path)
    return found


def refused(folder: Path, reason: str, library: str = LIBRARY, capability: str = CAPABILITY, gpu: str = GPU) -> None:
    with pytest.raises(ModelError, match=reason) as caught:
        read_engines(folder, library, capability, gpu)
    assert "\n" not in str(caught.value)


def test_what_was_written_is_read(engines: EngineSet, tmp_path: Path) -> None:
    assert read_engines(tmp_path, LIBRARY, CAPABILITY, GPU) == engines
    replace(engines, gpu=None).write(tmp_path)  # built for a named capability serves every GPU of it
    assert read_engines(tmp_path, LIBRARY, CAPABILITY, "NVIDIA RTX 4090").gpu is None


def test_foreign_and_stale_engines_are_refused(engines: EngineSet, tmp_path: Path) -> None:
    refused(tmp_path, f"built by {LIBRARY}, installed is tensorrt 10.16.0; {AGAIN}", library="tensorrt 10.16.0")
    other = rf"built for NVIDIA L4 \(compute capability 8.9\), this is NVIDIA H200 \(9.0\); {AGAIN}"
    refused(tmp_path, other, capability="9.0", gpu="NVIDIA H200")
    refused(tmp_path, "this is NVIDIA L40S", gpu="NVIDIA L40S")
    (tmp_path / "decoder.onnx").write_bytes(b"another graph")
    refused(tmp_path, f"decoder.onnx is not the graph that the engines were built from; {AGAIN}")


def test_damage_is_one_line(engines: EngineSet, tmp_path: Path) -> None:
    (tmp_path / "decoder.engine").write_bytes(b"Engine")
    refused(tmp_path, "decoder.engine: not the engine that engines.json describes")
    (tmp_path / "decoder.engine").unlink()
    refused(tmp_path, "decoder.engine: no such file")
    replace(engines, format="event-captioner-engines/9").write(tmp_path)
    refused(tmp_path, "format 'event-captioner-engines/9'")
    for text in ("[]", "{", '{"library": 1}'):
        (tmp_path / ENGINES).write_text(text)
        refused(tmp_path, "engines.json: not a manifest of engines")
    for damage in ({"graphs": []}, {"engines": {"decoder": "decoder.engine"}}, {"profiles": {"decoder": []}}):
        replace(engines, **damage).write(tmp_path)
        refused(tmp_path, "engines.json: not a manifest of engines")
    (tmp_path / ENGINES).unlink()
    refused(tmp_path, "no engines; run `event-captioner export .* --precision fp16`")
