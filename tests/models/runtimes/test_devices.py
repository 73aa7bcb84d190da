"""A model keeps to its GPU, whatever GPU the thread was at; one that is not there is refused in a line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app import session
from app.config import Config
from models.bundle import VisionLanguageModel, load_first, load_model
from models.errors import ModelError
from models.runtimes import devices, fallback
from models.runtimes.fallback import FallbackDecoder, FallbackVision, Ladder
from models.runtimes.nvidia import GpuError
from models.runtimes.shared import device_of, share_of
from tests.models.tiny import make_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> VisionLanguageModel:
    return load_model(make_model(tmp_path_factory.mktemp("device") / "target", "target", 1), "target")


@pytest.fixture
def current(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The GPUs that the thread was sent to, of a machine that has two; its runtimes compute on the CPU."""
    asked: list[int] = []

    def need(number: int, runtime: str) -> None:
        if number > 1:
            raise GpuError(f"GPU {number}: there are only 2; choose another, or runtime: onnx")

    monkeypatch.setattr(fallback, "need_gpu", need)
    monkeypatch.setattr(fallback, "use_gpu", lambda number, runtime: asked.append(number))
    return asked


def on(model: VisionLanguageModel, gpu: int | None, runtimes: tuple[str, ...] = ("onnx-cuda",)) -> VisionLanguageModel:
    ladder = Ladder(lambda runtime: (model.vision, model.decoder), runtimes, lambda *told: None, gpu)
    return replace(model, vision=FallbackVision(ladder), decoder=FallbackDecoder(ladder))


def test_every_call_goes_to_the_models_own_gpu(model: VisionLanguageModel, current: list[int]) -> None:
    first, second = on(model, 0), on(model, 1)
    for one, number in ((first, 0), (second, 1)):
        rows = one.decoder.embed(np.array([3, 4]))
        for call in (
            lambda one=one: one.decoder.warm_up(1, 1, 1),
            lambda one=one, rows=rows: one.decoder.forward(rows, 0, np.arange(2), 1),
            lambda one=one, rows=rows: one.decoder.forward_tree(
                rows, np.arange(2), np.tri(2, dtype=bool), 0, np.arange(2), 1
            ),
            lambda one=one: one.decoder.compact(0, np.array([1])),
            lambda one=one: one.vision.warm_up(one.frames, one.image_size, 1),
        ):
            current[:] = [1 - number]  # what the other model left
            call()
            assert current[-1] == number
    assert (device_of(first), device_of(second)) == ("cuda:0", "cuda:1")


def test_without_a_name_and_on_the_cpu_no_gpu_is_chosen(model: VisionLanguageModel, current: list[int]) -> None:
    for one in (on(model, None), on(model, 1, ("onnx",))):
        one.decoder.warm_up(1, 1, 1)
    assert current == []
    assert device_of(on(model, None)) == "cuda:0"
    assert device_of(model) == "cpu"


def test_a_gpu_that_is_not_there_is_told_and_the_next_runtime_taken(
    model: VisionLanguageModel, current: list[int]
) -> None:
    told: list[str] = []
    ladder = Ladder(
        lambda runtime: (model.vision, model.decoder), ("onnx-cuda", "onnx"), lambda *why: told.extend(why), 7
    )
    assert ladder.runtime == "onnx"
    assert told == ["onnx-cuda", "onnx", "GPU 7: there are only 2; choose another, or runtime: onnx"]
    with pytest.raises(GpuError, match="GPU 7: there are only 2"):
        on(model, 7)


def test_pytorch_counts_the_gpus_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    devices.need_gpu(0, "torch")
    with pytest.raises(GpuError, match="device cuda:1: PyTorch finds 1 GPUs, counted from 0; name another device"):
        devices.need_gpu(1, "torch")


def test_a_device_that_the_runtime_does_not_run_on_is_refused_at_load(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="device cuda:0: runtime onnx runs on the CPU"):
        load_first(make_model(tmp_path / "m", "drafter", 0), "drafter", ["onnx"], lambda *told: None, device="cuda:0")


@pytest.mark.parametrize(("gpus", "shares"), [((0, 0), True), ((None, 0), True), ((0, 1), False)])
def test_models_on_two_gpus_share_none(
    model: VisionLanguageModel,
    current: list[int],
    monkeypatch: pytest.MonkeyPatch,
    gpus: tuple[int | None, int | None],
    shares: bool,
) -> None:
    load: Callable[..., VisionLanguageModel] = lambda folder, role, *rest, **options: on(model, gpus[role == "target"])  # noqa: E731
    monkeypatch.setattr(session, "load_first", load)
    drafter, target = session.load_pair(Config())
    assert (share_of(drafter) is not None, share_of(target) is not None) == (shares, shares)
