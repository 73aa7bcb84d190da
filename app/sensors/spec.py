"""What a live camera is asked to be: plain data, because it goes to the capture process as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal
from urllib.parse import quote

Size = tuple[int, int]  # (width, height)
Exposure = int | Literal["auto"] | None  # µs; None: as the device has it


@dataclass(frozen=True, slots=True)
class Intrinsics:
    """A pinhole camera by OpenCV's model: focal lengths and centre in pixels, distortion k1, k2, p1, p2[, k3[, …]]."""

    fx: float
    fy: float
    cx: float
    cy: float
    distortion: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ViewSpec:
    """What is done to the picture, in this order."""

    undistort: Intrinsics | None = None
    crop: tuple[int, int, int, int] | None = None  # x, y, width, height
    rotate: int = 0  # degrees clockwise: 0, 90, 180, 270


@dataclass(frozen=True, slots=True)
class EventCameraSpec:
    """An iniVation camera by serial number (`any`: the first), or a dv network stream of events."""

    device: str | None = None
    network: str | None = None  # host:port
    frames: bool = True  # take the camera's own frames, where it has some
    exposure_us: Exposure = None
    biases: dict[str, int | tuple[int, int]] = field(default_factory=dict)
    view: ViewSpec = ViewSpec()

    @property
    def name(self) -> str:
        """What a person calls it before it is open."""
        return f"dv network stream {self.network}" if self.network else f"iniVation camera {self.device}"


@dataclass(frozen=True, slots=True)
class RgbCameraSpec:
    """An RGB camera; exactly one of the first five says which."""

    device: int | str | None = None  # V4L2
    url: str | None = None
    password: str | None = field(default=None, repr=False)  # of the user whom the url names
    file: str | None = None
    gstreamer: str | None = None
    network: str | None = None  # host:port of a dv network stream of frames
    width: int | None = None
    height: int | None = None
    fps: float | None = None
    exposure_us: Exposure = None
    max_side: int = 640
    view: ViewSpec = ViewSpec()
    homography: tuple[tuple[float, float, float], ...] | None = None  # [3, 3]: pixels of frames to pixels of events
    event_size: Size | None = None  # (width, height) of what the homography maps to, when it is known

    @property
    def name(self) -> str:
        """What a person calls it."""
        if self.gstreamer is not None:
            return "GStreamer pipeline"
        if self.network is not None:
            return f"dv network stream {self.network}"
        if isinstance(self.device, int):
            return f"/dev/video{self.device}"
        return without_password(str(self.device or self.url or self.file))


CameraSpec = EventCameraSpec | RgbCameraSpec


def with_password(address: str, password: str) -> str:
    """`rtsp://user@host/` with the user's password."""
    scheme, _, rest = address.partition("://")
    user, _, host = rest.partition("@")
    return f"{scheme}://{user}:{quote(password, safe='')}@{host}"


def without_password(address: str) -> str:
    """An address as a log may show it: `rtsp://user:secret@host/` without user and secret."""
    scheme, mark, rest = address.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{mark}{host.rpartition('@')[2]}{slash}{path}" if mark else address


def to_json(spec: CameraSpec) -> str:
    return json.dumps({"events" if isinstance(spec, EventCameraSpec) else "frames": asdict(spec)})


def from_json(text: str) -> CameraSpec:
    ((kind, data),) = json.loads(text).items()
    data["view"] = _view(data["view"])
    if kind == "events":
        data["biases"] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in data["biases"].items()
        }
        return EventCameraSpec(**data)
    data["event_size"] = tuple(data["event_size"]) if data["event_size"] else None
    if data["homography"] is not None:
        data["homography"] = tuple(tuple(row) for row in data["homography"])
    return RgbCameraSpec(**data)


def _view(data: dict[str, Any]) -> ViewSpec:
    undistort, crop = data["undistort"], data["crop"]
    return ViewSpec(
        Intrinsics(**undistort | {"distortion": tuple(undistort["distortion"])}) if undistort else None,
        tuple(crop) if crop else None,
        data["rotate"],
    )
