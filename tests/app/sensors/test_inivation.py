"""iniVation cameras, as far as they go without one: found or not, and what each model is told to be."""

from __future__ import annotations

import inspect
from datetime import timedelta

import dv_processing as dv
import numpy as np
import pytest

from app.sensors.capture_process import open_device
from app.sensors.contract import Events, SourceError
from app.sensors.inivation import _BIASES, CHIPS, FIRST_OF, InivationCamera, biases_of, discover, orders
from app.sensors.merging import RawFrame
from app.sensors.spec import EventCameraSpec, ViewSpec
from app.sensors.view import EventView, FrameView

OWNERS = {"DVS128": dv.io.camera.DVS128, "DVXplorer": dv.io.camera.DVXplorer}


def test_no_camera_is_an_empty_list_and_opening_one_is_refused() -> None:
    if discover():
        pytest.skip("a camera is plugged in")
    assert discover() == []
    for device in ("any", "DAVIS346_00000499"):
        with pytest.raises(SourceError, match="no iniVation camera found; plug it in"):
            open_device(EventCameraSpec(device=device))


def test_a_davis_is_told_its_exposure_its_frames_and_its_biases() -> None:
    spec = EventCameraSpec(device="any", exposure_us=4000, biases={"Diff": (4, 39), "ApsCascode": 21})
    told = [(order.method, order.arguments) for order in orders("DAVIS346", spec)]
    davis = dv.io.camera.DAVIS
    assert told == [
        ("setFramesRunning", (True,)),
        ("setAutoExposure", (False,)),
        ("setExposureDuration", (timedelta(milliseconds=4),)),
        ("setDavis346BiasCoarseFine", (davis.Davis346BiasCF.Diff, 4, 39)),
        ("setDavis346BiasVoltage", (davis.Davis346BiasVDAC.ApsCascode, 21)),
    ]
    beside_rgb = orders("DAVIS240", EventCameraSpec(device="any", frames=False, exposure_us="auto"))
    assert [(order.method, order.arguments) for order in beside_rgb] == [
        ("setFramesRunning", (False,)),
        ("setAutoExposure", (True,)),
    ]


def test_a_dvxplorer_is_told_its_contrast_thresholds() -> None:
    (order,) = orders("DVXplorer", EventCameraSpec(device="any", biases={"ContrastThresholdOn": 9}))
    assert (order.method, order.arguments) == ("setContrastThresholdOn", (9,))


@pytest.mark.parametrize("chip", CHIPS)
def test_every_bias_becomes_a_call_that_dv_processing_has(chip: str) -> None:
    owner = OWNERS.get(chip, dv.io.camera.DAVIS)
    biases = {name: (1, 2) if count == 2 else 1 for name, count in biases_of(chip).items()}
    found = orders(chip, EventCameraSpec(device="any", biases=biases))
    assert len(found) >= len(biases) > 0
    for order in found:
        signature = inspect.getdoc(getattr(owner, order.method)) or ""
        assert signature.split(")")[0].count(",") == len(order.arguments), signature


class Davis:
    """What dv-processing has waiting from one."""

    def __init__(self, batches: int, frame: dv.Frame) -> None:
        self.batches, self.frames = batches, [frame]

    def getNextEventBatch(self) -> dv.EventStore | None:
        if not self.batches:
            return None
        self.batches -= 1
        store = dv.EventStore()
        store.push_back(1_000, 1, 1, True)
        return store

    def getNextFrame(self) -> dv.Frame | None:
        return self.frames.pop() if self.frames else None


def test_a_frame_comes_after_the_events_that_were_there_before_it() -> None:
    camera = InivationCamera.__new__(InivationCamera)
    image = np.zeros((4, 6), np.uint8)
    camera._camera = Davis(3, dv.Frame(2_000, 600, 0, 0, image, dv.FrameSource.SENSOR))
    camera.name, camera.has_frames = "DAVIS", True
    camera._view, camera._frame_view = EventView("DAVIS", (6, 4), ViewSpec()), FrameView("DAVIS", (6, 4), ViewSpec(), 6)
    *events, frame = camera.read()
    assert [len(run) for run in events if isinstance(run, Events)] == [1, 1, 1]
    assert isinstance(frame, RawFrame)
    assert (frame.t_us, frame.exposure_us) == (2_000, 600)


def test_the_models_have_classes() -> None:
    models = dv.io.camera.CameraModel.__members__
    assert all(model in models and hasattr(dv.io.camera, name) for model, name in FIRST_OF.items())
    assert {chip.removesuffix("C") for chip in dv.io.camera.DAVIS.SensorModel.__members__} & set(_BIASES)


@pytest.mark.parametrize(
    ("chip", "spec", "line"),
    [
        ("DAVIS346", {"biases": {"Dif": (1, 2)}}, "a DAVIS346 has no bias 'Dif'; did you mean Diff?"),
        ("DAVIS346", {"biases": {"Diff": 5}}, r"bias Diff takes \[coarse, fine\], not 5"),
        ("DVXplorer", {"biases": {"ContrastThresholdOn": (1, 2)}}, "bias ContrastThresholdOn takes one number"),
        (
            "DVXplorer",
            {"biases": {"Refractory": 1}},
            "a DVXplorer has no bias 'Refractory'; it has ContrastThresholdOn",
        ),
        ("DVXplorer", {"exposure_us": 100}, "a DVXplorer has no frames to expose; leave exposure_us out"),
    ],
)
def test_what_a_camera_does_not_have_is_one_line(chip: str, spec: dict, line: str) -> None:
    with pytest.raises(SourceError, match=line):
        orders(chip, EventCameraSpec(device="any", **spec))
