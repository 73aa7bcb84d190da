"""The static form of the torch decoder against the reference, on the CPU; with a GPU, its graphs too (`-m gpu`)."""

from pathlib import Path

import numpy as np
import pytest
import torch

from models.bundle import load_model
from models.runtimes.torch_static import StaticTorchDecoder
from models.video_llava import VideoLlava
from tests.models.tiny import S_MAX, make_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("static") / "target", "target", seed=5)


def same_as_the_reference(decoder: StaticTorchDecoder, folder: Path, tolerance: float) -> None:
    """Prefill in chunks, a rejected draft, decode and verify; a tree, one path of it kept, and what follows."""
    reference = load_model(folder, "target", "torch").decoder
    x = reference.embed(np.random.default_rng(2).integers(0, 128, 60))
    np.testing.assert_allclose(decoder.embed(np.arange(9)), reference.embed(np.arange(9)), atol=tolerance)
    expected = reference.forward(x, 0, np.arange(60), 1)
    limit = tolerance * float(np.abs(expected).max())
    assert decoder.forward(x[:30], 0, np.arange(0), 1).shape == (0, 128)
    decoder.forward(x[:8], 30, np.arange(8), 1)
    for _ in range(3):  # the third replays what the second captured
        np.testing.assert_allclose(decoder.forward(x[30:38], 30, np.arange(8), 1), expected[30:38], rtol=0, atol=limit)
    for i in range(38, 44):
        np.testing.assert_allclose(decoder.forward(x[i : i + 1], i, np.arange(1), 1), expected[i : i + 1], atol=limit)
    mask, depth, kept = np.array([[1, 0, 0], [1, 1, 0], [1, 0, 1]], np.bool_), np.array([0, 1, 1]), np.array([0, 2])
    nodes = x[44:47]
    tree = decoder.forward_tree(nodes, 44 + depth, mask, 44, np.arange(3), 1)
    reference.forward(x[:44], 0, np.arange(0), 1)
    np.testing.assert_allclose(
        tree, reference.forward_tree(nodes, 44 + depth, mask, 44, np.arange(3), 1), rtol=0, atol=limit
    )
    after = []
    for one in (decoder, reference):
        one.compact(44, kept)
        after.append(one.forward(x[50:51], 46, np.arange(1), 1))
    np.testing.assert_allclose(*after, rtol=0, atol=limit)
    with pytest.raises(ValueError, match=f"2 rows after {S_MAX - 1} do not fit a cache of {S_MAX}"):
        decoder.forward(x[:2], S_MAX - 1, np.arange(1), 1)


def test_on_the_cpu(folder: Path) -> None:
    same_as_the_reference(StaticTorchDecoder(VideoLlava.load(folder).decoder, S_MAX), folder, 1e-5)


def test_a_long_prefill_takes_the_fused_causal_kernel(folder: Path) -> None:
    """More rows than a graph holds: attention over the valid rows alone, also behind rows that are there already."""
    reference = load_model(folder, "target", "torch").decoder
    decoder = StaticTorchDecoder(VideoLlava.load(folder).decoder, S_MAX)
    x = reference.embed(np.random.default_rng(3).integers(0, 128, 150))
    expected = reference.forward(x, 0, np.array([79, 149]), 1)
    limit = 1e-5 * float(np.abs(expected).max())
    stale = np.random.default_rng(4).standard_normal(x.shape, np.float32)
    decoder.forward(stale, 0, np.arange(0), 1)  # what an earlier window left in the cache
    first = decoder.forward(x[:80], 0, np.array([79]), 1)
    second = decoder.forward(x[80:], 80, np.array([69]), 1)
    np.testing.assert_allclose(np.concatenate([first, second]), expected, rtol=0, atol=limit)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_on_the_gpu_with_graphs(folder: Path) -> None:
    same_as_the_reference(StaticTorchDecoder(VideoLlava.load(folder).decoder.cuda(), S_MAX), folder, 1e-3)
