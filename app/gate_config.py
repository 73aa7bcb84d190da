"""The section `gate` of the configuration: whether a still scene is captioned again and again."""

from __future__ import annotations

from pydantic import Field

from app.config_section import Section


class GateConfig(Section):
    enabled: bool = Field(
        default=False,
        title="Event-rate gate",
        description="Caption a scene in which nothing moves only at every heartbeat: the windows between are dropped "
        "as `still`, and the camera's status names the caption that goes on being true.",
    )
    heartbeat_s: float = Field(
        default=10.0,
        gt=0,
        le=3600,
        title="Heartbeat",
        description="A still scene is captioned anyway so often, in seconds.",
    )
    factor: float = Field(
        default=2.0,
        gt=1,
        le=100,
        title="Factor",
        description="A part of the picture moves when it gives so many times the events of its own noise floor, which "
        "is the least of the last five minutes; half as many again wake a scene that was still.",
    )
    noise_hz: float = Field(
        default=0.5,
        gt=0,
        le=1000,
        title="Most noise",
        description="Events a pixel and second that are taken for noise at most, so that a scene that never rests is "
        "never called still. Raise it for a noisy sensor whose still scene is not noticed.",
    )
