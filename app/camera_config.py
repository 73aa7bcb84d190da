"""The section `cameras` of the configuration: what a camera is, and what is done to its picture."""

from __future__ import annotations

import re
import shlex
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, Field, field_validator, model_validator

from app.config_section import Section
from app.sensors.spec import EventCameraSpec, Intrinsics, RgbCameraSpec, ViewSpec

Rotation = Literal[0, 90, 180, 270]
Crop = Annotated[list[Annotated[int, Field(ge=0, le=32767)]], Field(min_length=4, max_length=4)]
Bias = (
    Annotated[int, Field(ge=0, le=255)]
    | Annotated[list[Annotated[int, Field(ge=0, le=255)]], Field(min_length=2, max_length=2)]
)


def _host_port(address: str) -> str:
    found = re.fullmatch(r"(?P<host>[^:\s/]+|\[[0-9a-fA-F:]+\]):(?P<port>\d{1,5})", address)
    if not found or not 0 < int(found["port"]) < 1 << 16:
        raise ValueError(f"{address!r} is not host:port, such as 127.0.0.1:7777")
    return address


def _homography(rows: list[list[float]]) -> list[list[float]]:
    if np.linalg.matrix_rank(np.array(rows)) < 3:
        raise ValueError("this homography is singular: it maps the whole picture to a line or a point")
    return rows


def _pipeline(text: str) -> str:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ValueError(f"this pipeline has a quotation mark too few or too many ({error})") from None
    if not words:
        raise ValueError("this pipeline is empty; name a source, such as videotestsrc is-live=true")
    if any(word.endswith("sink") for word in words) or words[0].startswith("gst-launch"):
        raise ValueError("give the pipeline from its source on, without gst-launch-1.0 and without a sink")
    return text


HostPort = Annotated[str, AfterValidator(_host_port)]
Row = Annotated[list[float], Field(min_length=3, max_length=3)]
Homography = Annotated[list[Row], Field(min_length=3, max_length=3), AfterValidator(_homography)]


class UndistortConfig(Section):
    fx: float = Field(gt=0, le=1e5, title="fx", description="Focal length in pixels, across.")
    fy: float = Field(gt=0, le=1e5, title="fy", description="Focal length in pixels, down.")
    cx: float = Field(ge=-1e5, le=1e5, title="cx", description="Optical centre in pixels, from the left.")
    cy: float = Field(ge=-1e5, le=1e5, title="cy", description="Optical centre in pixels, from the top.")
    distortion: Annotated[list[float], Field(min_length=4, max_length=8)] = Field(
        title="Distortion",
        description="k1, k2, p1, p2, then k3 and k4 to k6 if need be, as OpenCV's calibration has it.",
    )

    @model_validator(mode="after")
    def _known_length(self) -> UndistortConfig:
        if len(self.distortion) not in (4, 5, 8):
            raise ValueError(f"distortion has {len(self.distortion)} numbers; OpenCV's model has 4, 5 or 8")
        return self


class _ViewConfig(Section):
    undistort: UndistortConfig | None = Field(
        default=None,
        title="Undistort",
        description="The lens, from a calibration at this size. Comes first; then crop, then rotate.",
    )
    crop: Crop | None = Field(
        default=None, title="Crop", description="The part to keep: x, y, width, height in pixels, before it is turned."
    )
    rotate: Rotation = Field(default=0, title="Rotate", description="Degrees clockwise.")

    @model_validator(mode="after")
    def _crop_is_not_empty(self) -> _ViewConfig:
        if self.crop is not None and 0 in self.crop[2:]:
            raise ValueError(f"crop {self.crop} keeps nothing; it is x, y, width, height")
        return self

    def view(self) -> ViewSpec:
        lens = self.undistort
        return ViewSpec(
            Intrinsics(lens.fx, lens.fy, lens.cx, lens.cy, tuple(lens.distortion)) if lens else None,
            (self.crop[0], self.crop[1], self.crop[2], self.crop[3]) if self.crop else None,
            self.rotate,
        )


Exposure = Literal["auto"] | Annotated[int, Field(ge=1, le=10_000_000)]


class EventCameraConfig(_ViewConfig):
    device: str | None = Field(
        default=None,
        min_length=1,
        title="Camera",
        description="An iniVation camera on USB: `any`, or its serial number, as `event-captioner cameras` shows it.",
    )
    network: HostPort | None = Field(
        default=None, title="Network stream", description="A dv network stream of events: host:port."
    )
    exposure_us: Exposure | None = Field(
        default=None,
        title="Exposure",
        description="Of a DAVIS's own frames, in µs, or auto. Left out: as the camera has it.",
    )
    biases: dict[str, Bias] = Field(
        default_factory=dict,
        title="Biases",
        description="By the names of dv-processing: [coarse, fine] or one number. Left out: as the camera has them.",
    )

    @field_validator("biases", mode="before")
    @classmethod
    def _on_and_off_are_names(cls, biases: Any) -> Any:
        """YAML takes the bare words On and Off for true and false."""
        names = {True: "On", False: "Off"}
        if not isinstance(biases, dict):
            return biases
        return {names[name] if isinstance(name, bool) else name: value for name, value in biases.items()}

    @model_validator(mode="after")
    def _one_source(self) -> EventCameraConfig:
        if (self.device is None) == (self.network is None):
            raise ValueError("an event camera is either a device (any, or a serial number) or a network stream")
        if self.network is not None and (self.exposure_us is not None or self.biases):
            raise ValueError("exposure_us and biases are for a device; who serves a network stream sets its own")
        if self.biases:
            _check_biases(self.biases)
        return self

    def spec(self) -> EventCameraSpec:
        return EventCameraSpec(
            device=self.device,
            network=self.network,
            exposure_us=self.exposure_us,
            biases={
                name: (value[0], value[1]) if isinstance(value, list) else value for name, value in self.biases.items()
            },
            view=self.view(),
        )


def _check_biases(biases: dict[str, Any]) -> None:
    """Names that no iniVation camera has are told at once; which camera it is, is only known when it is there."""
    from app.sensors.inivation import CHIPS, biases_of

    known = {name for chip in CHIPS for name in biases_of(chip)}
    if unknown := [name for name in biases if name not in known]:
        raise ValueError(f"no iniVation camera has a bias {unknown[0]!r}; there are {', '.join(sorted(known))}")


class RgbCameraConfig(_ViewConfig):
    device: Annotated[int, Field(ge=0, le=255)] | Annotated[str, Field(min_length=1)] | None = Field(
        default=None, title="V4L2 device", description="Its number or its path: 0, /dev/video0, /dev/v4l/by-id/…"
    )
    url: str | None = Field(
        default=None,
        json_schema_extra={"pattern": "^(rtsp|rtsps|http|https)://"},
        title="Network camera",
        description="rtsp://…, http://…; a user may stand in it (rtsp://user@host/…), a password not.",
    )
    password_file: str | None = Field(
        default=None,
        min_length=1,
        title="Password file",
        description="With url: a file whose first line is the user's password, relative to this one; or "
        "`credential:NAME`, a credential that systemd hands over.",
    )
    file: str | None = Field(
        default=None,
        min_length=1,
        title="Video file",
        description="Played in real time, again and again; relative to this file.",
    )
    gstreamer: Annotated[str, AfterValidator(_pipeline)] | None = Field(
        default=None,
        title="GStreamer pipeline",
        description="For gst-launch-1.0, from its source on and without a sink; width and height say what comes out.",
    )
    network: HostPort | None = Field(
        default=None, title="dv network stream", description="A dv network stream of frames: host:port."
    )
    width: int | None = Field(default=None, ge=16, le=8192, title="Width", description="Asked of a device or pipeline.")
    height: int | None = Field(
        default=None, ge=16, le=8192, title="Height", description="Asked of a device or pipeline."
    )
    fps: float | None = Field(
        default=None,
        gt=0,
        le=1000,
        title="Frame rate",
        description="Asked of a device; frames that come quicker are left out. Left out: all of them.",
    )
    exposure_us: Exposure | None = Field(
        default=None, title="Exposure", description="Of a V4L2 device, in µs, or auto. Left out: as it has it."
    )
    max_side: int = Field(
        default=640,
        ge=64,
        le=4096,
        title="Longest side",
        description="Larger frames are made smaller as soon as they are captured; models look at 224 or 336 pixels.",
    )
    homography: Homography | None = Field(
        default=None,
        title="Homography",
        description="Three rows of three numbers: from pixels of the frame to pixels of the event camera, both after "
        "undistort, crop and rotate. The frame is then shown as the event camera sees the scene.",
    )

    @model_validator(mode="after")
    def _one_source(self) -> RgbCameraConfig:
        ways = ("device", "url", "file", "gstreamer", "network")
        given = [way for way in ways if getattr(self, way) is not None]
        if len(given) != 1:
            raise ValueError(
                f"an RGB camera is exactly one of {', '.join(ways)}; {' and '.join(given) or 'none'} is given"
            )
        if self.url is not None and not re.match(r"(rtsp|http)s?://.", self.url):
            raise ValueError("url begins with rtsp://, rtsps://, http:// or https://; a file is given as file")
        if self.url is not None and re.match(r"[a-z]+://[^/@]*:[^/@]*@", self.url):
            raise ValueError("no password in this file: write rtsp://user@host/… and name a password_file")
        if self.password_file is not None and not (self.url and re.match(r"[a-z]+://[^/@]+@", self.url)):
            raise ValueError("password_file belongs to a url that names a user, such as rtsp://user@host/…")
        if self.gstreamer is not None and (self.width is None or self.height is None):
            raise ValueError("a GStreamer pipeline needs width and height: how large its frames come out")
        if self.exposure_us is not None and self.device is None:
            raise ValueError(f"exposure_us is for a V4L2 device; {given[0]} has its own settings")
        if (self.width or self.height) and self.device is None and self.gstreamer is None:
            raise ValueError(f"width and height are asked of a device or a pipeline; {given[0]} gives what it has")
        return self

    def spec(self, password: str | None) -> RgbCameraSpec:
        """`password`: what `password_file` holds."""
        rows = self.homography
        return RgbCameraSpec(
            device=self.device,
            url=self.url,
            password=password,
            file=self.file,
            gstreamer=self.gstreamer,
            network=self.network,
            width=self.width,
            height=self.height,
            fps=self.fps,
            exposure_us=self.exposure_us,
            max_side=self.max_side,
            view=self.view(),
            homography=tuple((row[0], row[1], row[2]) for row in rows) if rows else None,
        )


class CameraConfig(Section):
    source: Literal["synthetic", "recording", "live"] = Field(
        default="synthetic",
        title="Source",
        description="live: an event camera, an RGB camera, or both. synthetic: the demo street as an endless test "
        "pattern. recording: a file, played again and again.",
    )
    seed: int = Field(
        default=0, ge=0, le=2**31, title="Seed", description="With synthetic: another seed, another street."
    )
    path: str | None = Field(
        default=None, title="Recording", description="With recording: the file, relative to this one."
    )
    event_camera: EventCameraConfig | None = Field(
        default=None, title="Event camera", description="With live: where the events come from."
    )
    rgb_camera: RgbCameraConfig | None = Field(
        default=None,
        title="RGB camera",
        description="With live: where the frames come from; left out: the event camera's own, if it is a DAVIS.",
    )

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> CameraConfig:
        if self.source == "recording" and self.path is None:
            raise ValueError("a recording needs a path: name the file to play")
        cameras = self.event_camera is not None or self.rgb_camera is not None
        if self.source == "live" and not cameras:
            raise ValueError("a live source needs an event_camera, an rgb_camera, or both")
        if self.source != "live" and cameras:
            raise ValueError(f"source is {self.source}: event_camera and rgb_camera are for source: live")
        if self.rgb_camera is not None and self.rgb_camera.homography is not None and self.event_camera is None:
            raise ValueError("a homography maps to an event camera, and there is none here")
        return self
