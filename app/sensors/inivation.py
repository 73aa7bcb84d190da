"""iniVation cameras through dv-processing: found, opened, set up, read. Runs in the capture process.

dv-processing 2.0: https://dv-processing.inivation.com/
"""

from __future__ import annotations

import difflib
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import dv_processing as dv

from app.sensors.contract import Events, SourceError
from app.sensors.dv_data import events_of, exposure_of, image_of, reason_of
from app.sensors.merging import RawFrame
from app.sensors.spec import EventCameraSpec
from app.sensors.view import EventView, FrameView

COMMIT = timedelta(milliseconds=5)  # how much the camera gathers before it hands over: latency against load
IDLE_S = 0.001
MOST_BATCHES = 40  # read at a time
ANY = "any"
FIRST_OF = {"DAVIS": "DAVIS", "DVXPLORER": "DVXplorer", "DVXPLORER_M": "DVXplorerM", "DVS128": "DVS128"}

# chip → (enumeration of its class, method that sets one of them, numbers it takes)
_BIASES: dict[str, tuple[tuple[str, str, int], ...]] = {
    "DAVIS346": (
        ("Davis346BiasCF", "setDavis346BiasCoarseFine", 2),
        ("Davis346BiasVDAC", "setDavis346BiasVoltage", 1),
    ),
    "DAVIS240": (("Davis240BiasCF", "setDavis240BiasCoarseFine", 2),),
    "CDAVIS": (("CDavisBiasCF", "setCDavisBiasCoarseFine", 2), ("CDavisBiasVDAC", "setCDavisBiasVoltage", 1)),
    "DVS128": (("Bias", "setBias", 1),),
}
_THRESHOLDS = {"ContrastThresholdOn": "setContrastThresholdOn", "ContrastThresholdOff": "setContrastThresholdOff"}
CHIPS = (*_BIASES, "DVXplorer")


@dataclass(frozen=True, slots=True)
class Order:
    """One call of a camera's method that sets it up as configured."""

    method: str
    arguments: tuple[Any, ...]


def discover() -> list[str]:
    """Names of the iniVation cameras on USB, as `device` takes them: model and serial number."""
    return [f"{found.cameraModel.name}_{found.serialNumber}" for found in dv.io.camera.discover()]


def biases_of(chip: str) -> dict[str, int]:
    """Every bias that can be set on a chip, with how many numbers it takes: one, or coarse and fine."""
    if chip == "DVXplorer":
        return dict.fromkeys(_THRESHOLDS, 1)
    owner = dv.io.camera.DVS128 if chip == "DVS128" else dv.io.camera.DAVIS
    return {name: count for group, _, count in _BIASES.get(chip, ()) for name in getattr(owner, group).__members__}


def orders(chip: str, spec: EventCameraSpec) -> list[Order]:
    """What the configuration asks of a camera with this chip. Raises SourceError for what it does not have."""
    found: list[Order] = []
    if "DAVIS" in chip:
        found.append(Order("setFramesRunning", (spec.frames,)))
        if spec.exposure_us is not None:
            found.append(Order("setAutoExposure", (spec.exposure_us == "auto",)))
        if isinstance(spec.exposure_us, int):
            found.append(Order("setExposureDuration", (timedelta(microseconds=spec.exposure_us),)))
    elif spec.exposure_us is not None:
        raise SourceError(f"a {chip} has no frames to expose; leave exposure_us out")
    return found + [_bias(chip, name, value) for name, value in spec.biases.items()]


def _bias(chip: str, name: str, value: int | tuple[int, int]) -> Order:
    known = biases_of(chip)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(known) or 'none that can be set'}"
        raise SourceError(f"a {chip} has no bias {name!r}; {hint}")
    numbers = value if isinstance(value, tuple) else (value,)
    if len(numbers) != known[name]:
        raise SourceError(f"bias {name} takes {'[coarse, fine]' if known[name] == 2 else 'one number'}, not {value}")
    if chip == "DVXplorer":
        return Order(_THRESHOLDS[name], numbers)
    owner = dv.io.camera.DVS128 if chip == "DVS128" else dv.io.camera.DAVIS
    group, method, _ = next(entry for entry in _BIASES[chip] if name in getattr(owner, entry[0]).__members__)
    return Order(method, (getattr(owner, group).__members__[name], *numbers))


def _find(device: str) -> Any:
    """The descriptor of the camera that `device` names: `any`, a serial number, or model and serial number."""
    found = dv.io.camera.discover()
    if not found:
        raise SourceError("no iniVation camera found; plug it in, and see `event-captioner cameras`")
    chosen = found if device == ANY else [one for one in found if one.serialNumber == device.rpartition("_")[2]]
    if not chosen:
        raise SourceError(f"no iniVation camera {device}; there is {', '.join(discover())}")
    return chosen[0]


class InivationCamera:
    """An open camera. Events carry its own clock, which starts from the host's; frames of a DAVIS the same."""

    def __init__(self, spec: EventCameraSpec) -> None:
        descriptor = _find(spec.device or ANY)
        typed = FIRST_OF.get(descriptor.cameraModel.name)
        try:
            if typed:  # the class that has the settings
                self._camera = getattr(dv.io.camera, typed)(descriptor.serialNumber)
            else:
                self._camera = dv.io.camera.open(descriptor)
            self.name = self.clock = str(self._camera.getCameraName())
            self._camera.setTimeInterval(COMMIT)
            for order in orders(self._chip(), spec):
                getattr(self._camera, order.method)(*order.arguments)
        except (RuntimeError, IndexError, ValueError) as error:
            raise SourceError(f"iniVation camera {descriptor.serialNumber}: {reason_of(error)}") from error
        width, height = (int(side) for side in self._camera.getEventResolution())
        self._view = EventView(self.name, (width, height), spec.view)
        self.size = self._view.size
        self.has_events = True
        self.has_frames = spec.frames and bool(self._camera.isFrameStreamAvailable())
        if self.has_frames:
            frame_size = tuple(int(side) for side in self._camera.getFrameResolution())
            self._frame_view = FrameView(self.name, (frame_size[0], frame_size[1]), spec.view, max(frame_size))

    def _chip(self) -> str:
        if isinstance(self._camera, dv.io.camera.DAVIS):
            model = str(self._camera.getSensorModel().name)
            return next((chip for chip in _BIASES if model.startswith(chip)), model)
        return type(self._camera).__name__ if isinstance(self._camera, dv.io.camera.DVS128) else "DVXplorer"

    def read(self) -> list[Events | RawFrame]:
        items: list[Events | RawFrame] = []
        try:
            for _ in range(MOST_BATCHES):  # before a frame: one that overtook events would close their window on them
                if (store := self._camera.getNextEventBatch()) is None:
                    break
                if len(store):
                    items.append(self._view(events_of(store)))
            if self.has_frames and (frame := self._camera.getNextFrame()) is not None:
                items += raw_frame(frame, self._frame_view)
            if not items and not self._camera.isRunning():
                raise SourceError(f"{self.name}: unplugged, or it stopped")
        except RuntimeError as error:
            raise SourceError(f"{self.name}: {reason_of(error)}") from error
        if not items:
            time.sleep(IDLE_S)
        return items

    def close(self) -> None:
        del self._camera  # its destructor stops the transfers


def raw_frame(frame: Any, view: FrameView) -> list[RawFrame]:
    """A dv.Frame, as the camera sees it; none if it is empty."""
    image = image_of(frame)
    return [] if image is None else [RawFrame(int(frame.timestamp), view(image), exposure_of(frame))]
