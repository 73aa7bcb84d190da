"""The drafter's table ends before the target's: golden A's official output has ids that the drafter does not know."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from app.decoding.engine import Engine, Job, Settings  # noqa: E402
from app.decoding.guard import Acceptance, Guard  # noqa: E402
from app.decoding.strategies import make_strategy  # noqa: E402
from app.telemetry.spans import SpanRecorder  # noqa: E402
from models.eventgpt import EventGPT  # noqa: E402
from models.prompts import Prompt  # noqa: E402
from models.runtimes.torch import TorchDecoder, TorchVision  # noqa: E402
from models.video_llava import VideoLlava  # noqa: E402
from tests.app.decoding.toy import costs  # noqa: E402

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden"
pytestmark = pytest.mark.skipif(not GOLDEN.is_dir(), reason="../shared/golden is absent")
SHARED, ROWS = 320, 384  # the small mirror of 32000 and 32064


@dataclass
class Model:
    vision: TorchVision
    decoder: TorchDecoder
    eos_id: int
    vocabulary: int


def prompt(ids: np.ndarray, placeholder: int, count: int) -> Prompt:
    places = np.flatnonzero(ids == placeholder)
    return Prompt(tuple(ids[: places[0]].tolist()), count, tuple(ids[places[-1] + 1 :].tolist()))


@pytest.mark.parametrize(("strategy", "placement"), [("speculative", None), ("prefill_hiding", "serial")])
@pytest.mark.parametrize("k", [0, 1])
def test_the_official_greedy_tokens_come_out_whatever_is_drafted(strategy, placement, k):
    drafter, target = EventGPT.load(GOLDEN / "eventgpt/ckpt_A_full"), VideoLlava.load(GOLDEN / "videollava/ckpt_A_hub")
    events = dict(np.load(GOLDEN / "eventgpt/golden_A_overlap.npz"))
    video = dict(np.load(GOLDEN / "videollava/golden_A.npz"))
    official = video[f"prompt{k}_greedy"].tolist()
    assert max(official) >= SHARED
    never = ROWS + 1  # no end of sequence: all 24 tokens
    models = (
        Model(TorchVision(drafter.vision), TorchDecoder(drafter.decoder, 128), never, SHARED),
        Model(TorchVision(target.vision), TorchDecoder(target.decoder, 256), never, ROWS),
    )
    prompts = (prompt(events[f"prompt{k}_ids"], -200, 22), prompt(video[f"prompt{k}_ids"], 321, 136))
    guard = Guard(costs(), Acceptance(), enabled=False)
    engine = Engine(*models, prompts, guard, Settings(len(official), lambda token: False, placement, 6))
    job = Job(lambda: video["pixel_values_videos"][0], lambda: events["pixel_values"], SpanRecorder())
    transcript, _ = make_strategy(strategy, engine).run(job)
    engine.close()
    assert list(transcript.tokens) == official
    # Drafts are ids that the drafter has; after an id that it has not, it sits the rest of the caption out.
    assert all(token < SHARED for token in transcript.first_draft)
    assert transcript.first_draft or official[0] >= SHARED


def test_the_target_chooses_among_all_its_rows():
    """Untrained rows beyond the shared ids are real logits: the official code's argmax runs over them too."""
    steps = np.load(GOLDEN / "videollava/golden_A.npz")["prompt0_step_logits"].reshape(-1, ROWS)
    assert (steps[:, :SHARED].argmax(1) != steps.argmax(1)).any()
