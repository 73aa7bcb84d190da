"""Out of memory at load and in the middle of a caption: smaller parts, then the next runtime, the same text throughout.

The runtimes are ONNX Runtime's own on a tiny model, made to raise the project's error for a full GPU.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from models.bundle import VisionLanguageModel, load_model
from models.errors import ModelError
from models.runtimes.contract import Floats, Ints, WarmDecoder, WarmVision
from models.runtimes.fallback import LEAST_PART, FallbackDecoder, FallbackVision, Ladder
from models.runtimes.memory import PeakMemory, cache_bytes, gpu_memory, host_peak_bytes, need_memory, weight_bytes
from models.runtimes.nvidia import OutOfGpuMemory
from models.runtimes.onnx import DecoderSizes, OnnxDecoder, OnnxVision
from models.stored import stored_tensors
from tests.models.tiny import make_model


class CrampedDecoder(OnnxDecoder):
    """Has room for passes of `most` rows; from pass `until` on for none."""

    most: int = 10**9
    until: int = 10**9
    passes: int = 0

    def _room(self, tokens: int) -> None:
        self.passes += 1
        if tokens > self.most or self.passes > self.until:
            raise OutOfGpuMemory(f"decoder: no memory for {tokens} rows; take a smaller precision")

    def forward(self, embeddings: Floats, length: int, rows: Ints, threads: int) -> Floats:
        self._room(len(embeddings))
        return super().forward(embeddings, length, rows, threads)

    def forward_tree(
        self, embeddings: Floats, positions: Ints, mask: NDArray[np.bool_], length: int, rows: Ints, threads: int
    ) -> Floats:
        self._room(len(embeddings))
        return super().forward_tree(embeddings, positions, mask, length, rows, threads)


class FullVision(OnnxVision):
    """Has no room at all."""

    def encode(self, pixels: Floats, threads: int) -> Floats:
        raise OutOfGpuMemory("vision: no memory; take a smaller precision")


@dataclass
class Loads:
    """Runtimes of one folder by name: how cramped each decoder is; None: it does not even load."""

    folder: Path
    rooms: dict[str, dict[str, int] | None]
    full_vision: str = ""
    role: Literal["drafter", "target"] = "target"
    told: list[tuple[str, str, str]] = field(default_factory=list)

    def __call__(self, runtime: str) -> tuple[WarmVision, WarmDecoder]:
        room = self.rooms[runtime]
        if room is None:
            raise OutOfGpuMemory(f"{runtime}: takes 15.1 GB, 9.0 GB are free")
        manifest = load_model(self.folder, self.role).manifest
        embedding = stored_tensors(self.folder / manifest["embedding"]["file"])[manifest["embedding"]["tensor"]]
        sizes = DecoderSizes(s_max=manifest["s_max"], **manifest["decoder"])
        decoder = CrampedDecoder(self.folder, sizes, embedding)
        for name, value in room.items():
            setattr(decoder, name, value)
        vision = FullVision if runtime == self.full_vision else OnnxVision
        return vision(self.folder / "vision.onnx"), decoder

    def ladder(self) -> Ladder:
        return Ladder(self, list(self.rooms), lambda *line: self.told.append(line))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("fallback") / "target", "target", seed=5)


@pytest.fixture(scope="module")
def roomy(folder: Path) -> VisionLanguageModel:
    return load_model(folder, "target")


def session(decoder: WarmDecoder, x: Floats) -> list[Floats]:
    """A prefill, a rejected draft, decode; a tree, one path of it kept, and what follows."""
    mask, depth, kept = np.array([[1, 0, 0], [1, 1, 0], [1, 0, 1]], np.bool_), np.array([0, 1, 1]), np.array([0, 2])
    logits = [decoder.forward(x[:130], 0, np.array([40, 129]), 1), decoder.forward(x[5:9], 130, np.arange(4), 1)]
    logits += [decoder.forward(x[i : i + 1], i, np.arange(1), 1) for i in range(130, 134)]
    logits.append(decoder.forward_tree(x[134:137], 134 + depth, mask, 134, np.arange(3), 1))
    decoder.compact(134, kept)
    return [*logits, decoder.forward(x[140:142], 136, np.arange(2), 1)]


@pytest.mark.parametrize("until", range(1, 9))
def test_whichever_pass_fails_the_next_runtime_goes_on_where_it_ended(
    folder: Path, roomy: VisionLanguageModel, until: int
) -> None:
    x = roomy.decoder.embed(np.random.default_rng(2).integers(0, 128, 150))
    loads = Loads(folder, {"first": {"until": until}, "second": {}})
    decoder = FallbackDecoder(loads.ladder())
    for found, expected in zip(session(decoder, x), session(roomy.decoder, x), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    fell = until < 8  # the session has eight passes
    assert decoder.ladder.runtime == ("second" if fell else "first")
    assert [(before, after) for before, after, _ in loads.told][-1:] == ([("first", "second")] if fell else [])


def test_a_pass_that_is_too_large_goes_in_smaller_parts(folder: Path, roomy: VisionLanguageModel) -> None:
    x = roomy.decoder.embed(np.random.default_rng(2).integers(0, 128, 150))
    loads = Loads(folder, {"first": {"most": 70}, "second": {}})
    decoder = FallbackDecoder(loads.ladder())
    for found, expected in zip(session(decoder, x), session(roomy.decoder, x), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    assert decoder.ladder.runtime == "first"
    assert [line[:2] for line in loads.told] == [("parts of 130", "parts of 65")]
    (record,) = decoder.ladder.take_fallbacks()
    assert (record.before, record.after) == ("parts of 130", "parts of 65")
    assert "no memory for 130 rows" in record.reason
    assert record.start_ns <= record.end_ns
    assert decoder.ladder.take_fallbacks() == []


def test_smaller_parts_have_an_end_and_so_has_the_list(folder: Path) -> None:
    loads = Loads(folder, {"first": {"most": 8}, "second": {"most": 8}})
    decoder = FallbackDecoder(loads.ladder())
    with pytest.raises(OutOfGpuMemory, match=f"no memory for {LEAST_PART} rows"):
        decoder.forward(np.zeros((130, decoder.width), np.float32), 0, np.arange(1), 1)
    assert len(loads.told) == 2 * 2 + 1  # 130, 65 and 64 rows of each; one change of runtime
    assert decoder.busy() == []


def test_at_load_the_next_runtime_is_taken_and_the_first_caption_knows(folder: Path) -> None:
    loads = Loads(folder, {"first": None, "second": None, "third": {}})
    ladder = loads.ladder()
    assert (ladder.runtime, ladder.fell) == ("third", True)
    assert [(one.before, one.after) for one in ladder.take_fallbacks()] == [("first", "second"), ("second", "third")]
    with pytest.raises(ModelError, match=r"second: takes 15\.1 GB"):
        Loads(folder, {"first": None, "second": None}).ladder()


def test_a_vision_without_memory_takes_the_decoder_along(folder: Path, roomy: VisionLanguageModel) -> None:
    x = roomy.decoder.embed(np.random.default_rng(2).integers(0, 128, 150))
    loads = Loads(folder, {"first": {}, "second": {}}, full_vision="first")
    ladder = loads.ladder()
    vision, decoder = FallbackVision(ladder), FallbackDecoder(ladder)
    decoder.forward(x[:20], 0, np.arange(0), 1)
    pixels = np.random.default_rng(1).standard_normal((8, 3, 28, 28), np.float32)
    np.testing.assert_allclose(vision.encode(pixels, 1), roomy.vision.encode(pixels, 1), atol=1e-5)
    found = decoder.forward(x[20:30], 20, np.arange(10), 1)  # the new cache has never seen the first 20
    np.testing.assert_allclose(found, roomy.decoder.forward(x[:30], 0, np.arange(20, 30), 1), rtol=0, atol=1e-4)


def test_what_does_not_fit_is_refused_before_it_is_loaded(roomy: VisionLanguageModel) -> None:
    need_memory(2 * 10**9, "target", (10**10, 24 * 10**9))
    with pytest.raises(
        OutOfGpuMemory, match=r"target: takes 15.1 GB .*, of whose 24.0 GB 9.0 are free; close"
    ) as caught:
        need_memory(14 * 10**9, "target", (9 * 10**9, 24 * 10**9))
    assert "\n" not in str(caught.value)
    assert cache_bytes(roomy.manifest) == 2 * 2 * 2 * 160 * 16 * 4
    assert weight_bytes(roomy.manifest) == roomy.manifest["weights"]["model.safetensors"]["bytes"]
    quantised = roomy.manifest | {"weights": roomy.manifest["weights"] | {"decoder.int4.safetensors": {"bytes": 1000}}}
    assert weight_bytes(quantised) == 1000 + 2 * 128 * 32


def test_peak_memory_is_told_with_and_without_a_gpu() -> None:
    memory = PeakMemory()
    memory.look()
    assert memory.figures["host_bytes"] == host_peak_bytes() > 10**7
    assert (memory.gpu_bytes is None) == (gpu_memory() is None)
    assert str(memory).startswith("host ")
