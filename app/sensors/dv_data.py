"""dv-processing's events, images and errors as this project has them."""

from __future__ import annotations

from typing import Any

import dv_processing as dv
import numpy as np
from numpy.typing import NDArray

from app.sensors.contract import Events, Frame

LONGEST_EXPOSURE_US = 10_000_000  # longer is damage


def events_of(store: Any) -> Events:
    """An EventStore as columns."""
    raw = store.numpy()
    t, x, y = (np.ascontiguousarray(raw[name]) for name in ("timestamp", "x", "y"))
    return Events(t, x, y, np.ascontiguousarray(raw["polarity"]).astype(np.uint8))


def image_of(frame: Any) -> NDArray[np.uint8] | None:
    """The image of a dv.Frame, uint8 [H, W] grey or [H, W, 3] RGB; None for one that is empty or of another depth."""
    image = np.asarray(frame.image)
    if image.dtype != np.uint8 or image.size == 0:
        return None
    if image.ndim == 3:
        image = image[:, :, 0] if image.shape[2] == 1 else image[:, :, 2::-1]  # BGR(A) to RGB
    return np.ascontiguousarray(image)


def exposure_of(frame: Any) -> int:
    """How long a dv.Frame was exposed, µs; 0: unknown.

    `dv.Frame.timestamp` is "capture time of the image, usually refers to start of exposure" (dv-processing 2.0, its
    docstring), and so it is taken, live and in recordings.
    """
    exposure_us = round(frame.exposure.total_seconds() * 1e6)
    return exposure_us if 0 <= exposure_us <= LONGEST_EXPOSURE_US else 0


def dv_frame(frame: Frame) -> Any:
    """A frame as dv-processing writes it: grey or BGR, with its exposure."""
    image = np.ascontiguousarray(frame.image[:, :, 0] if frame.grey else frame.image[:, :, ::-1])
    return dv.Frame(frame.t_us, frame.exposure_us, 0, 0, image, dv.FrameSource.UNDEFINED)


def reason_of(error: BaseException) -> str:
    """The sentence a person can use: dv-processing puts the C++ source before it and a trace behind it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = next((line.partition(": ")[2] for line in lines if line.startswith("RuntimeError: ")), None)
    return (said or (lines[0] if lines else type(error).__name__)).rstrip(".")
