"""dv-processing's events, images and errors as this project has them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.sensors.contract import Events


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


def reason_of(error: BaseException) -> str:
    """The sentence a person can use: dv-processing puts the C++ source before it and a trace behind it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = next((line.partition(": ")[2] for line in lines if line.startswith("RuntimeError: ")), None)
    return (said or (lines[0] if lines else type(error).__name__)).rstrip(".")
