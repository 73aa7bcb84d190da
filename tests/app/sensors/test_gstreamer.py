"""A pipeline read through the real `gst-launch-1.0`; see also `test_live`."""

from __future__ import annotations

import os

import pytest

from app.sensors import gstreamer
from app.sensors.gstreamer import GStreamerCamera
from app.sensors.spec import RgbCameraSpec
from tests.app.sensors.processes import PATTERN, needs_gstreamer


@needs_gstreamer
def test_what_a_pipeline_says_for_hours_does_not_fill_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GST_DEBUG", "*:6")  # some lines a frame
    monkeypatch.setattr(gstreamer, "MOST_SAID", 1 << 16)
    camera = GStreamerCamera(RgbCameraSpec(gstreamer=PATTERN, width=64, height=48))
    sizes = [0]
    while len(sizes) < 100 and sizes[-1] >= sizes[len(sizes) // 2]:
        assert camera.read()
        sizes.append(os.fstat(camera._said.fileno()).st_size)
    camera.close()
    assert sizes[-1] < max(sizes)
