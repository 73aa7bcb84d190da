"""Payloads about the program and its cameras, as plain dicts; every field is described in `schemas/*.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from app.publishing.outbox import Payload
from app.publishing.payloads import Origin, wall_us

STATES = ("starting", "online", "degraded", "stopped", "offline")
STREAM_STATES = ("online", "stalled", "reconnecting", "disabled", "ended")


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """One stream of a camera: its state (of STREAM_STATES) and when it last gave data."""

    state: str
    last_data_us: int | None = None  # sensor time
    last_data_wall_us: int | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Sync:
    """The frames' clock, of a second device, against the events'.

    Event time = frame time + `offset_us`, now; the offset grows by `drift_ppm` µs a second. The uncertainties are two
    standard errors. `method` is `arrival`, or `motion` once a moving scene has told how long frames are under way.
    """

    offset_us: int
    uncertainty_us: int
    drift_ppm: float
    drift_uncertainty_ppm: float
    method: str


@dataclass(frozen=True, slots=True)
class Scene:
    """What the event-rate gate makes of a camera: `caption`, a window's index, goes on being true while it is still."""

    still: bool
    caption: int | None
    skipped: int  # windows since it


def status_payload(node: str, session: str, state: str, reason: str | None = None) -> Payload:
    """status/1; `state` is one of STATES."""
    return {
        "schema": "status/1",
        "node": node,
        "session": session,
        "state": _one_of(state, STATES),
        "reason": reason,
        "created_wall_us": wall_us(),
    }


def info_payload(
    node: str,
    session: str,
    *,
    version: str,
    models: Mapping[str, str | bool],
    runtimes: Sequence[str],
    cameras: Mapping[str, Mapping[str, Any]],
    capabilities: Sequence[str],
    replay: bool,
) -> Payload:
    """info/1, the birth certificate. A camera: {`resolution`: [w, h], `events`: bool, `frames`: bool, `live`: bool}."""
    return {
        "schema": "info/1",
        "node": node,
        "session": session,
        "version": version,
        "models": {**models, "demo": bool(models.get("demo", False))},
        "runtimes": list(runtimes),
        "cameras": {name: dict(camera) for name, camera in cameras.items()},
        "capabilities": list(capabilities),
        "replay": replay,
        "created_wall_us": wall_us(),
    }


def result_payload(
    node: str,
    session: str,
    command: str,
    correlation: str | None,
    *,
    result: Mapping[str, Any] | None = None,
    error: str | None = None,
) -> Payload:
    """result/1, the answer to a command: what came of it, or why nothing did."""
    return {
        "schema": "result/1",
        "node": node,
        "session": session,
        "command": command,
        "correlation": correlation,
        "ok": error is None,
        "error": error,
        "result": None if result is None else dict(result),
        "created_wall_us": wall_us(),
    }


def camera_status_payload(
    origin: Origin, streams: Mapping[str, StreamStatus], sync: Sync | None = None, scene: Scene | None = None
) -> Payload:
    """camera_status/1; `streams` are `events` and `frames`, whichever the camera has. `sync` of two devices, `scene`
    with the event-rate gate."""
    return {
        "schema": "camera_status/1",
        "node": origin.node,
        "camera": origin.camera,
        "session": origin.session,
        "streams": {
            name: {
                "state": _one_of(s.state, STREAM_STATES),
                "last_data_us": s.last_data_us,
                "last_data_wall_us": s.last_data_wall_us,
                "reason": s.reason,
            }
            for name, s in streams.items()
        },
        "sync": asdict(sync) if sync else None,
        "scene": _scene(scene, origin) if scene else None,
        "replay": origin.replay,
        "created_wall_us": wall_us(),
    }


def _scene(scene: Scene, origin: Origin) -> Payload:
    caption = None if scene.caption is None else origin.caption_id(scene.caption)
    return {"still": scene.still, "caption": caption, "skipped": scene.skipped}


def _one_of(value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise ValueError(f"state {value!r} is none of {', '.join(allowed)}")
    return value
