"""RGB cameras, network cameras and video files through OpenCV. Runs in the capture process."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from app.sensors.contract import Events, SourceError
from app.sensors.device import HOST_CLOCK
from app.sensors.merging import RawFrame
from app.sensors.spec import RgbCameraSpec, with_password
from app.sensors.throttle import Throttle
from app.sensors.view import FrameView

TIMEOUT_MS = 5_000
MANUAL_EXPOSURE, AUTO_EXPOSURE = 1, 3  # V4L2_EXPOSURE_MANUAL, V4L2_EXPOSURE_APERTURE_PRIORITY
EXPOSURE_UNIT_US = 100  # of V4L2_CID_EXPOSURE_ABSOLUTE
DEFAULT_FPS = 30.0


class OpenCvCamera:
    """A V4L2 device, an RTSP or HTTP address, or a video file, which is played in real time, again and again.

    A frame is stamped when it is grabbed, before it is decoded. `fps` is asked of the device, and frames that come
    quicker are left out undecoded.
    """

    clock = HOST_CLOCK
    has_events = False
    has_frames = True

    def __init__(self, spec: RgbCameraSpec) -> None:
        self.name = spec.name
        self._spec = spec
        self._video = self._open()
        self._throttle = Throttle(spec.fps)
        if not self._video.grab():
            raise SourceError(f"{self.name}: opens, but gives no picture; {self._remedy()}")
        _, image = self._video.retrieve()
        if image is None:
            raise SourceError(f"{self.name}: its pictures cannot be decoded")
        height, width = image.shape[:2]
        self._view = FrameView(self.name, (width, height), spec.view, spec.max_side, spec.homography, spec.event_size)
        viewed = self._view(image)
        self.size = viewed.shape[1], viewed.shape[0]
        file_fps = float(self._video.get(cv2.CAP_PROP_FPS))
        self._file_period_s = 1 / (file_fps if 0 < file_fps < 1000 else DEFAULT_FPS)
        self._shown = 1  # frames since the file began
        self._began_s = time.monotonic()

    def _open(self) -> Any:
        spec = self._spec
        if spec.file is not None:
            if not Path(spec.file).is_file():
                raise SourceError(f"{spec.file}: no such video; check the path")
            video = cv2.VideoCapture(spec.file)
        elif spec.url is not None:
            timeouts = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, TIMEOUT_MS]
            url = with_password(spec.url, spec.password) if spec.password else spec.url
            video = cv2.VideoCapture(url, cv2.CAP_FFMPEG, timeouts)
        else:
            node = f"/dev/video{spec.device}" if isinstance(spec.device, int) else str(spec.device)
            if not os.path.exists(node):
                raise SourceError(f"{node}: no such device; see `event-captioner cameras`")
            if not os.access(node, os.R_OK | os.W_OK):
                raise SourceError(f"{node}: this user may not open it; sudo usermod -aG video $USER, and log in again")
            video = cv2.VideoCapture(node, cv2.CAP_V4L2)
            if video.isOpened():
                self._set_up(video)
        if not video.isOpened():
            raise SourceError(f"{self.name}: OpenCV cannot open it; {self._remedy()}")
        return video

    def _remedy(self) -> str:
        if self._spec.url is not None:
            return "is the address right, and the camera there?"
        if self._spec.file is not None:
            return "convert it, for example to MP4 (H.264)"
        return "is it a camera, and is no other program using it? `v4l2-ctl --list-formats-ext` tells what it can"

    def _set_up(self, video: Any) -> None:
        """Ask a V4L2 device for size, rate and exposure; a size it does not have is refused."""
        spec = self._spec
        video.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # what waits in the driver is old
        for key, value in ((cv2.CAP_PROP_FRAME_WIDTH, spec.width), (cv2.CAP_PROP_FRAME_HEIGHT, spec.height)):
            if value is not None:
                video.set(key, value)
        size = round(video.get(cv2.CAP_PROP_FRAME_WIDTH)), round(video.get(cv2.CAP_PROP_FRAME_HEIGHT))
        if (spec.width or size[0], spec.height or size[1]) != size:
            raise SourceError(
                f"{self.name}: has no {spec.width} × {spec.height}, it offers {size[0]} × {size[1]}; "
                "`v4l2-ctl --list-formats-ext` tells what it can"
            )
        if spec.fps is not None:
            video.set(cv2.CAP_PROP_FPS, spec.fps)
        if spec.exposure_us == "auto":
            done = video.set(cv2.CAP_PROP_AUTO_EXPOSURE, AUTO_EXPOSURE)
        elif spec.exposure_us is not None:
            done = video.set(cv2.CAP_PROP_AUTO_EXPOSURE, MANUAL_EXPOSURE) and video.set(
                cv2.CAP_PROP_EXPOSURE, max(1, round(spec.exposure_us / EXPOSURE_UNIT_US))
            )
        else:
            done = True
        if not done:
            raise SourceError(f"{self.name}: its exposure cannot be set; leave exposure_us out")

    def read(self) -> list[Events | RawFrame]:
        if self._spec.file is not None:
            self._next_of_file()
        elif not self._video.grab():
            raise SourceError(f"{self.name}: gives no more pictures: unplugged, or the connection was lost")
        grabbed_ns = time.monotonic_ns()
        if not self._throttle.passes(grabbed_ns):
            return []
        decoded, image = self._video.retrieve()
        if not decoded:
            return []
        if image.ndim == 3:
            image = image[:, :, ::-1]  # BGR to RGB
        return [RawFrame(grabbed_ns // 1000, self._view(np.ascontiguousarray(image)))]

    def _next_of_file(self) -> None:
        """Grab the file's next frame when it is due, the first one after the last."""
        due_s = self._began_s + self._shown * self._file_period_s
        time.sleep(max(0.0, due_s - time.monotonic()))
        if not self._video.grab():
            self._video.release()
            self._video = self._open()
            if not self._video.grab():
                raise SourceError(f"{self.name}: cannot be read again")
        self._shown += 1

    def close(self) -> None:
        self._video.release()
