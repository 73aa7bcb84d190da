"""CLIP preprocessing: the official processors' pixels, exactly."""

from pathlib import Path

import numpy as np
import pytest

from models.preprocess import MEAN, STD, clip_pixels

GOLDEN = Path(__file__).parents[3] / "shared/golden"
golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="../shared/golden is absent")


@golden
@pytest.mark.parametrize("name", ["sparse", "overlap"])
def test_equals_the_official_event_pixels(name: str) -> None:
    frames = np.load(GOLDEN / f"eventgpt/frames_{name}.npz")
    real_size = np.load(GOLDEN / "eventgpt/pixel_values_336.npz")[f"{name}_slice0"]
    small = np.load(GOLDEN / f"eventgpt/golden_A_{name}.npz")["pixel_values"]
    np.testing.assert_allclose(clip_pixels([frames["frame0"]], 336)[0], real_size, rtol=0, atol=1e-6)
    np.testing.assert_allclose(clip_pixels([frames[f"frame{i}"] for i in range(5)], 56), small, rtol=0, atol=1e-6)


@golden
def test_equals_the_official_video_pixels() -> None:
    frames = np.load(GOLDEN / "videollava/frames.npz")["frames"]
    expected = np.load(GOLDEN / "videollava/pixel_values_224.npz")["pil"]
    np.testing.assert_allclose(clip_pixels(frames[5:6], 224), expected.reshape(1, 3, 224, 224), rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(5, 9, 3), (9, 5, 3), (7, 7, 3), (1, 40, 3), (3, 2, 3)])
def test_any_size_becomes_a_square(shape: tuple[int, int, int]) -> None:
    pixels = clip_pixels([np.full(shape, 255, np.uint8)], 7)
    assert pixels.shape == (1, 3, 7, 7)
    assert pixels.dtype == np.float32
    np.testing.assert_allclose(pixels[0, :, 3, 3], (1 - np.array(MEAN)) / np.array(STD), rtol=1e-6)


def test_what_is_not_an_rgb_image_is_refused() -> None:
    for image in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(ValueError, match=r"image: uint8 \[height, width, 3\] expected"):
            clip_pixels([image], 4)  # type: ignore[list-item]
