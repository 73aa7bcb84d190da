"""A GPU that runs out of memory in mid-caption: the same caption, from the next runtime, and a record of it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from app.captioner import Captioner, CaptionerSettings
from app.cli import main
from app.gpu_checks.demo import RECORDING
from app.publishing.payloads import Clock, Origin, caption_payload, telemetry_payload
from app.session import told_of_models
from app.sinks import CaptionLog
from app.windows import Window
from models.bundle import VisionLanguageModel, load_model
from models.runtimes.fallback import FallbackDecoder, FallbackVision, Ladder
from models.runtimes.shared import on_gpu, share_gpu
from models.runtimes.sharing import SERIAL, STREAMS, Sharing
from tests.app.decoding import toy
from tests.models.runtimes.test_fallback import CrampedDecoder, Loads
from tests.models.runtimes.test_nvidia import without_gpu
from tests.models.tiny import make_pair

SETTINGS = CaptionerSettings(strategy="prefill_hiding", placement="serial", guard=False, max_new_tokens=12)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_pair(tmp_path_factory.mktemp("gpu-fallback"), seed=1)


def on_ladder(loads: Loads) -> tuple[Ladder, VisionLanguageModel]:
    """A model that may fall from `tensorrt`, and what it stands on."""
    ladder = loads.ladder()
    parts = {"vision": FallbackVision(ladder), "decoder": FallbackDecoder(ladder)}
    return ladder, replace(load_model(loads.folder, loads.role), runtime="tensorrt", **parts)  # type: ignore[arg-type]


@pytest.fixture
def captioner(folders: tuple[Path, Path]) -> Iterator[Callable[..., Captioner]]:
    made: list[Captioner] = []

    def make(target: VisionLanguageModel | None = None, way: Sharing | None = None) -> Captioner:
        pair = load_model(folders[0], "drafter"), target or load_model(folders[1], "target")
        if way:
            shared = share_gpu(*pair, (way,))
            shared.share.use(way)
            pair = shared.drafter, shared.target
        made.append(Captioner(*pair, SETTINGS, costs=toy.costs()))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_the_caption_goes_on_with_the_next_runtime_and_says_so(
    folders: tuple[Path, Path], captioner: Callable[..., Captioner], tiny_window: Callable[..., Window]
) -> None:
    window = tiny_window(3)
    expected = captioner().caption(window)
    loads = Loads(folders[1], {"tensorrt": {}, "onnx": {}})
    ladder, target = on_ladder(loads)
    failing = captioner(target)
    first = ladder.parts[1]
    assert isinstance(first, CrampedDecoder)
    first.until = first.passes + 4  # the memory is gone in the middle of the caption
    caption = failing.caption(window)
    assert caption.token_ids == expected.token_ids
    assert [line[:2] for line in loads.told] == [("tensorrt", "onnx")]

    origin = Origin("robot", "front", "0" * 12, Clock())
    (span,) = [one for one in telemetry_payload(caption, origin)["spans"] if one["name"] == "fallback"]
    assert span["detail"]["model"] == "target"
    assert (span["detail"]["before"], span["detail"]["after"]) == ("tensorrt", "onnx")
    assert "no memory for" in span["detail"]["reason"]
    assert caption_payload(caption, origin, CaptionLog().caption(caption.text))["models"]["runtime"] == "onnx"
    again = failing.caption(tiny_window(4))
    assert not [one for one in again.spans if one.name == "fallback"]  # it is told once


def test_the_plan_is_made_anew_for_the_runtime_that_is_left(
    folders: tuple[Path, Path],
    captioner: Callable[..., Captioner],
    tiny_window: Callable[..., Window],
    tmp_path: Path,
) -> None:
    """The next caption begins with a calibration; then nothing is shared any more, and the words are the same."""
    expected = [captioner().caption(tiny_window(number)).token_ids for number in range(3, 6)]
    loads = Loads(folders[1], {"tensorrt": {}, "onnx": {}})
    ladder, target = on_ladder(loads)
    shared = share_gpu(load_model(folders[0], "drafter"), target, (SERIAL,))
    failing = Captioner(shared.drafter, shared.target, SETTINGS, cache=tmp_path)
    try:
        planned = failing.costs
        assert (planned.sharing, shared.share.way) == ("serial", SERIAL)
        first = ladder.parts[1]
        assert isinstance(first, CrampedDecoder)
        first.until = first.passes + 4
        captions = [failing.caption(tiny_window(number)) for number in range(3, 6)]
    finally:
        failing.close()
    assert [caption.token_ids for caption in captions] == expected
    told = [[span.name for span in caption.spans if span.name in ("fallback", "calibrate")] for caption in captions]
    assert told == [["fallback"], ["calibrate"], []]
    assert failing.costs is not planned
    assert failing.engine.guard.costs is failing.costs
    assert (failing.costs.sharing, shared.share.way, shared.share.ways) == ("", STREAMS, ())
    assert len(list(tmp_path.glob("calibration-*.json"))) == 2  # each of its runtimes has its own


def test_a_runtime_that_is_lost_while_the_plan_is_made_leaves_no_plan_of_its_own(
    folders: tuple[Path, Path], tiny_window: Callable[..., Window], tmp_path: Path
) -> None:
    loads = Loads(folders[1], {"tensorrt": {}, "onnx-cuda": {"until": 40}, "onnx": {}})
    ladder, target = on_ladder(loads)
    failing = Captioner(load_model(folders[0], "drafter"), target, SETTINGS, cache=tmp_path)
    try:
        first = ladder.parts[1]
        assert isinstance(first, CrampedDecoder)
        first.until = first.passes + 4
        captions = [failing.caption(tiny_window(number)) for number in range(3)]
    finally:
        failing.close()
    assert (ladder.runtime, ladder.planned) == ("onnx", True)
    told = [[span.name for span in caption.spans if span.name in ("fallback", "calibrate")] for caption in captions]
    assert told == [["fallback"], ["calibrate", "fallback"], []]
    assert len(list(tmp_path.glob("calibration-*.json"))) == 2  # of `tensorrt` and `onnx`


def test_a_drafter_without_a_runtime_does_not_keep_the_target_from_its_next_one(
    folders: tuple[Path, Path], captioner: Callable[..., Captioner], tiny_window: Callable[..., Window], tmp_path: Path
) -> None:
    expected = [captioner().caption(tiny_window(number)).token_ids for number in range(4)]
    drafter_loads = Loads(folders[0], {"tensorrt": {}, "torch": None}, role="drafter")
    drafter_ladder, drafter = on_ladder(drafter_loads)
    ladder, target = on_ladder(Loads(folders[1], {"tensorrt": {}, "onnx": {}}))
    shared = share_gpu(drafter, target, (SERIAL,))
    failing = Captioner(shared.drafter, shared.target, SETTINGS, cache=tmp_path)
    said = []
    try:
        for falls in (drafter_ladder, ladder):
            first = falls.parts[1]
            assert isinstance(first, CrampedDecoder)
            first.until = first.passes
            said += [failing.caption(tiny_window(number)).token_ids for number in (len(said), len(said) + 1)]
    finally:
        failing.close()
    assert said == expected
    assert (drafter_ladder.lost, on_gpu(shared.drafter)) == (True, False)
    told = told_of_models(failing)
    assert (told["runtimes"], told["models"]["target_device"]) == (["onnx", "torch"], "cpu")
    assert (ladder.runtime, ladder.planned) == ("onnx", False)  # the plan could not be made anew


def test_a_further_session_of_the_target_that_falls_is_told_too(
    folders: tuple[Path, Path], tiny_window: Callable[..., Window]
) -> None:
    ladder, further = on_ladder(Loads(folders[1], {"tensorrt": {}, "onnx": {}}))
    pair = load_model(folders[0], "drafter"), load_model(folders[1], "target")
    failing = Captioner(*pair, replace(SETTINGS, strategy="dsi"), costs=toy.costs(), more_targets=[further])
    try:
        first = ladder.parts[1]
        assert isinstance(first, CrampedDecoder)
        first.until = first.passes
        spans = failing.caption(tiny_window(3)).spans
    finally:
        failing.close()
    assert [span.detail["after"] for span in spans if span.name == "fallback"] == ["onnx"]


@pytest.mark.parametrize("way", ["serial", "chunked(32)", "streams"])
def test_whatever_the_sharing_the_caption_is_the_same(
    captioner: Callable[..., Captioner], tiny_window: Callable[..., Window], way: str
) -> None:
    for number in (5, 6):
        window = tiny_window(number)
        assert captioner(way=Sharing.parse(way)).caption(window).token_ids == captioner().caption(window).token_ids


@without_gpu
@pytest.mark.parametrize("runtime", ["tensorrt", "onnx-cuda", "onnx-tensorrt", "[tensorrt, onnx-cuda]"])
def test_where_no_runtime_is_left_the_command_ends_with_one_line(
    folders: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    runtime: str,
) -> None:
    config = tmp_path / "robot.yaml"
    config.write_text(
        f"models: {{drafter: {{path: {folders[0]}}}, target: {{path: {folders[1]}, runtime: {runtime}}}}}\n"
    )
    monkeypatch.setattr(sys, "argv", ["event-captioner", "replay", str(RECORDING), "--config", str(config)])
    with pytest.raises(SystemExit) as end:
        main()
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("event-captioner: ")]
    assert (end.value.code, len(told)) == (1, 1), told
    assert "; " in told[0]  # what is to be done
