"""What fits where: two 7B models in 16 bits do not fit 24 GB; sizes agree with the networks themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from models.errors import ModelError  # noqa: E402
from models.eventgpt import EventGPT  # noqa: E402
from models.memory_plan import EVENTGPT_7B, VIDEO_LLAVA_7B, fits_alone, pairings, shape_of  # noqa: E402
from models.video_llava import VideoLlava  # noqa: E402
from tests.models.tiny import write_checkpoint  # noqa: E402

GB = 10**9


def best(gigabytes: int) -> tuple[str, str] | None:
    options = pairings(EVENTGPT_7B, VIDEO_LLAVA_7B, gigabytes * GB, 64)
    return next(((option.target, option.drafter) for option in options if option.fits), None)


def test_what_fits_the_usual_cards():
    assert best(8) is None
    assert fits_alone(VIDEO_LLAVA_7B, 8 * GB, 64) == "int4"
    assert best(16) == ("int8", "int4")
    assert best(24) == ("16 bit", "int4")
    assert best(64) == best(141) == ("16 bit", "16 bit")
    assert fits_alone(VIDEO_LLAVA_7B, 4 * GB, 64) is None


@pytest.mark.parametrize(("shape", "network"), [(EVENTGPT_7B, EventGPT), (VIDEO_LLAVA_7B, VideoLlava)])
def test_parameters_are_those_of_the_network(shape, network):
    with torch.device("meta"):
        model = network(shape.clip, shape.llama)
    assert shape.linear_parameters + shape.other_parameters == sum(value.numel() for value in model.parameters())
    assert shape.weight_bytes("16 bit") == 2 * sum(value.numel() for value in model.parameters())
    caches = model.decoder.empty_caches(-(-(shape.prompt_rows + 64 + 32) // 8) * 8)
    assert shape.cache_bytes(64) == sum(2 * cache.numel() for cache in caches)


def test_a_shape_comes_from_a_checkpoint(tmp_path: Path):
    drafter, target = (write_checkpoint(tmp_path / role, role) for role in ("drafter", "target"))
    shape, model = shape_of(target, "target"), VideoLlava.load(target)
    assert shape.vision_parameters == sum(value.numel() for value in model.vision.parameters())
    assert shape.prompt_rows == 20 + model.visual_tokens
    with pytest.raises(ModelError, match=r"drafter: EventGPT is a drafter, not a target; swap the two"):
        shape_of(drafter, "target")
