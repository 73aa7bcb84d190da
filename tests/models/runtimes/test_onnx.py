"""The ONNX decoder against one full forward pass of the torch network."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.bundle import VisionLanguageModel, load_model
from models.errors import ModelError
from models.runtimes.onnx import OnnxVision, Sessions
from tests.models.tiny import make_model

S_MAX = 160
random = np.random.default_rng(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("onnx") / "target", "target", seed=3)


@pytest.fixture(scope="module")
def model(folder: Path) -> VisionLanguageModel:
    return load_model(folder, "target")


@pytest.fixture(scope="module")
def reference(folder: Path) -> VisionLanguageModel:
    return load_model(folder, "target", "torch")


def close(a: np.ndarray, b: np.ndarray) -> None:
    """Equal to 1e-5 of the largest value: what float32 sums in another order may differ by."""
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * float(np.abs(b).max(initial=1.0)))


def test_vision_equals_torch(model: VisionLanguageModel, reference: VisionLanguageModel) -> None:
    pixels = random.standard_normal((8, 3, 28, 28), np.float32)
    tokens = model.vision.encode(pixels, 1)
    assert tokens.shape == (40, 32)
    close(tokens, reference.vision.encode(pixels, 1))
    close(tokens[10:15], model.vision.encode(pixels[2:3], 1))  # a frame alone, as it arrives


def test_embeddings_equal_torch(model: VisionLanguageModel, reference: VisionLanguageModel) -> None:
    ids = np.arange(128)
    np.testing.assert_array_equal(model.decoder.embed(ids), reference.decoder.embed(ids))


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_schedule_equals_one_full_pass(
    model: VisionLanguageModel, reference: VisionLanguageModel, data: st.DataObject
) -> None:
    """Prefill in chunks, decode, rejected drafts and verification, in any order, on one or two threads."""
    x = model.decoder.embed(np.random.default_rng(data.draw(st.integers(0, 9))).integers(0, 128, 120))
    expected = reference.decoder.forward(x, 0, np.arange(120), 1)
    length = 0
    while length < 120:
        tokens = min(data.draw(st.sampled_from([1, 2, 3, 7, 40])), 120 - length)
        threads = data.draw(st.sampled_from([1, 1, 2]))
        if data.draw(st.booleans()):  # a draft that is rejected: other rows at the same place, then truncated
            model.decoder.forward(x[:tokens], length, np.arange(0), threads)
        rows = np.array(data.draw(st.lists(st.integers(0, tokens - 1), max_size=4)), np.int64)
        logits = model.decoder.forward(x[length : length + tokens], length, rows, threads)
        assert logits.shape == (len(rows), 128)
        close(logits, expected[length + rows])
        length += tokens


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_tree_equals_its_paths(
    model: VisionLanguageModel, reference: VisionLanguageModel, data: st.DataObject
) -> None:
    """Each node's logits are those of its path alone; keeping a path and going on equals a chain."""
    length, nodes = data.draw(st.integers(0, 40)), data.draw(st.integers(1, 9))
    x = model.decoder.embed(np.random.default_rng(data.draw(st.integers(0, 9))).integers(0, 128, length + nodes + 1))
    parents = [data.draw(st.integers(-1, node - 1)) for node in range(nodes)]
    mask, depth = np.eye(nodes, dtype=np.bool_), np.zeros(nodes, np.int64)
    for node, parent in enumerate(parents):
        if parent >= 0:
            mask[node] |= mask[parent]
            depth[node] = depth[parent] + 1
    paths = [np.flatnonzero(row) for row in mask]
    if length:
        model.decoder.forward(x[:length], 0, np.arange(0), 1)
    logits = model.decoder.forward_tree(x[length:-1], length + depth, mask, length, np.arange(nodes), 1)
    for node, path in enumerate(paths):
        chain = x[[*range(length), *(length + path)]]
        close(logits[node], reference.decoder.forward(chain, 0, np.array([len(chain) - 1]), 1)[0])
    kept = paths[data.draw(st.integers(0, nodes - 1))]
    model.decoder.compact(length, kept)
    after = model.decoder.forward(x[-1:], length + len(kept), np.array([0]), 1)
    chain = x[[*range(length), *(length + kept), length + nodes]]
    close(after, reference.decoder.forward(chain, 0, np.array([len(chain) - 1]), 1))


def test_results_are_the_callers_to_keep(model: VisionLanguageModel) -> None:
    x = model.decoder.embed(np.arange(6))
    first = model.decoder.forward(x[:1], 0, np.array([0]), 1)
    kept = first.copy()
    model.decoder.forward(x[3:4], 0, np.array([0]), 1)
    np.testing.assert_array_equal(first, kept)


def test_more_rows_than_the_cache_are_refused(model: VisionLanguageModel) -> None:
    x = np.zeros((S_MAX + 1, 32), np.float32)
    for tokens, length in ((S_MAX + 1, 0), (2, S_MAX - 1), (1, -1), (0, 3)):
        with pytest.raises(ValueError, match=f"{tokens} rows after {length} do not fit a cache of {S_MAX}"):
            model.decoder.forward(x[:tokens], length, np.array([0]), 1)
    model.decoder.forward(x[:S_MAX], 0, np.array([S_MAX - 1]), 1)


def test_many_shapes_keep_memory_bounded(model: VisionLanguageModel) -> None:
    x = np.zeros((90, 32), np.float32)
    for tokens in range(1, 91):
        model.decoder.forward(x[:tokens], 0, np.array([0]), 1)
    assert len(model.decoder._calls) <= 64  # type: ignore[attr-defined]


def test_a_damaged_or_missing_graph_is_one_line(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    with pytest.raises(ModelError, match=r"copy/absent\.onnx: no such file"):
        Sessions(copy / "absent.onnx")
    for damage in (b"", b"\xff" * 500, (folder / "vision.onnx").read_bytes()[:-400]):
        (copy / "vision.onnx").write_bytes(damage)
        with pytest.raises(ModelError, match=r"copy/vision\.onnx: not usable") as caught:
            OnnxVision(copy / "vision.onnx").encode(np.zeros((8, 3, 28, 28), np.float32), 1)
        assert "\n" not in str(caught.value)
    shutil.copy(folder / "vision.onnx", copy / "vision.onnx")
    (copy / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"copy/vision\.onnx: not usable"):
        OnnxVision(copy / "vision.onnx").encode(np.zeros((8, 3, 28, 28), np.float32), 1)
