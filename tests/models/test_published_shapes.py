"""The 7B networks on the meta device, key by key and shape by shape against the published architecture."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from models.checkpoint import compare  # noqa: E402
from models.eventgpt import NAMES as EVENTGPT  # noqa: E402
from models.eventgpt import EventGPT  # noqa: E402
from models.memory_plan import EVENTGPT_7B, VIDEO_LLAVA_7B  # noqa: E402
from models.networks import NETWORKS  # noqa: E402
from models.prompts import PROMPTS  # noqa: E402
from models.video_llava import NAMES as PORT  # noqa: E402
from models.video_llava import ORIGINAL_NAMES, VideoLlava  # noqa: E402
from tests.models.published import published  # noqa: E402


@pytest.mark.parametrize(
    ("network", "names", "parameters"),
    [("eventgpt", EVENTGPT, 7_079_682_048), ("port", PORT, 7_063_097_344), ("original", ORIGINAL_NAMES, 7_163_580_416)],
)
def test_every_key_and_shape(network, names, parameters):
    with torch.device("meta"):
        if network == "eventgpt":
            model = EventGPT(EVENTGPT_7B.clip, EVENTGPT_7B.llama)
        elif network == "port":
            model = VideoLlava(VIDEO_LLAVA_7B.clip, VIDEO_LLAVA_7B.llama)
        else:
            model = VideoLlava(VIDEO_LLAVA_7B.clip, EVENTGPT_7B.llama, 8)
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    result = compare(expected, published(network), names)
    assert (result.missing, result.unexpected, result.wrong_shape) == ([], [], [])
    assert set(result.found) == set(expected)
    read_by_nothing = ("post_layernorm", "position_ids", "inv_freq", "image_tower")
    assert all(any(part in name for part in read_by_nothing) for name in result.unused)
    assert sum(value.numel() for value in model.parameters()) == parameters
    assert model.visual_tokens == (582 if network == "eventgpt" else 2056)


@pytest.mark.parametrize(("network", "names"), [("eventgpt", EVENTGPT), ("port", PORT), ("original", ORIGINAL_NAMES)])
def test_nothing_is_lost_on_the_way(network, names):
    """Each published name has one of ours, and no two share it."""
    ours = [names.ours(name) for name in published(network)]
    kept = [name for name in ours if name]
    assert len(kept) == len(set(kept))


def test_every_network_has_its_prompt():
    assert set(PROMPTS) == set(NETWORKS)
