import dataclasses
import json
import math
from typing import Any

import pytest
from jsonschema import Draft202012Validator, ValidationError

from app.publishing import payloads, schemas, state_payloads
from app.publishing.outbox import Receipt
from app.publishing.payloads import CaptionLog, Clock, Origin
from app.publishing.state_payloads import StreamStatus
from tests.app.publishing.samples import make_caption, make_dropped, make_window
from tests.app.publishing.schema_check import validate

ORIGIN = Origin("robot", "front", "abc123", Clock("recording", 17, 3), replay=True)


def _described(schema: Any, path: str = "") -> list[str]:
    """Paths of properties without a description of their own or of what they refer to."""
    if isinstance(schema, list):
        return [p for i, item in enumerate(schema) for p in _described(item, f"{path}/{i}")]
    if not isinstance(schema, dict):
        return []
    missing = []
    for name, field in schema.get("properties", {}).items():
        if "description" not in field and "$ref" not in field:
            missing.append(f"{path}/{name}")
    return missing + [p for key, value in schema.items() for p in _described(value, f"{path}/{key}")]


@pytest.mark.parametrize("name", schemas.NAMES)
def test_schemas_are_valid_and_describe_every_field(name: str) -> None:
    schema = schemas.load(name)
    Draft202012Validator.check_schema(schema)
    assert _described(schema) == []


def test_caption_payload() -> None:
    log = CaptionLog()
    payload = payloads.caption_payload(make_caption(7), ORIGIN, log.caption("a red ball rolls"))
    validate(json.loads(json.dumps(payload)))
    assert payload["id"] == "abc123-front-7"
    assert payload["window"] == {
        "index": 7,
        "start_us": 12_000_000,
        "end_us": 13_000_000,
        "events": 100,
        "frames": 4,
        "grey_frames": 1,
        "dropped_events": 0,
        "lag_ms": 0.0,
        "notes": ["frames repeated"],
    }
    assert payload["latency_ms"] == {
        "queue": 1,
        "preprocess": 2,
        "drafter_encode": 2,
        "drafter_prefill": 4,
        "drafter_decode": 10,
        "target_encode": 6,
        "target_prefill": 10,
        "verify": 2,
        "target_decode": 8,
        "total": 30,
        "sensor_to_caption": 30,
        "last_frame_to_caption": 630,
    }
    assert payload["decoding"]["mean_acceptance_length"] == 4
    assert payload["decoding"]["draft_acceptance_rate"] == 0.5


def test_what_did_not_happen_is_null() -> None:
    caption = dataclasses.replace(make_caption(), spans=(), mean_logprob=math.nan, models={})
    payload = payloads.caption_payload(caption, ORIGIN, CaptionLog().caption("x"))
    validate(payload)
    assert payload["mean_logprob"] is None
    assert payload["latency_ms"]["verify"] is None
    assert payload["models"] == {"drafter": None, "target": None, "runtime": None, "demo": False}


def test_an_undescribed_field_is_noticed() -> None:
    payload = payloads.caption_payload(make_caption(), ORIGIN, CaptionLog().caption("x"))
    with pytest.raises(ValidationError, match="surprise"):
        validate(payload | {"surprise": 1})


def test_telemetry_accounts_for_every_frame() -> None:
    payload = payloads.telemetry_payload(make_caption(), ORIGIN)
    payload["publish"] = payloads.publish_record(Receipt(queued_ns=1, sent_ns=2), 0)
    validate(json.loads(json.dumps(payload)))
    first, _, repeated, unused = payload["frames"]
    assert first["arrived_ms"] == -1000
    assert first["grey"]
    assert first["prefill"] == {"start_ms": 10, "end_ms": 14}
    assert repeated["places"] == [2, 3]
    assert repeated["encode"] == {"start_ms": 4, "end_ms": 10}
    assert repeated["prefill"] == {"start_ms": 14, "end_ms": 20}
    assert (unused["used"], unused["reason"], unused["prefill"]) == (False, "not_selected", None)
    assert len(payload["spans"]) == 9
    assert payload["spans"][5]["detail"]["tokens"] == 64
    assert payload["overlap_ms"] == 15  # drafter 3..19, target from 4


def test_telemetry_of_a_dropped_window() -> None:
    payload = payloads.telemetry_payload(make_dropped(reason="failed: no memory"), ORIGIN)
    validate(payload)
    assert payload["outcome"] == "dropped"
    assert {f["reason"] for f in payload["frames"]} == {"failed: no memory"}
    assert not any(f["used"] for f in payload["frames"])


def test_unknown_arrival_is_null() -> None:
    window = make_window()
    unknown = dataclasses.replace(window.unused_frames[0], arrived_ns=0)
    caption = dataclasses.replace(make_caption(), window=dataclasses.replace(window, unused_frames=(unknown,)))
    assert payloads.telemetry_payload(caption, ORIGIN)["frames"][3]["arrived_ms"] is None


def test_log_counts() -> None:
    log = CaptionLog()
    assert dataclasses.astuple(log.caption("a")) == (0, True, 0)
    log.dropped()
    log.dropped()
    assert dataclasses.astuple(log.caption("a")) == (1, False, 2)
    assert dataclasses.astuple(log.caption("b")) == (2, True, 0)


def test_state_payloads() -> None:
    validate(payloads.draft_payload(make_window(), "a red", ORIGIN))
    validate(state_payloads.status_payload("robot", "s", "degraded", "camera front is away"))
    streams = {"events": StreamStatus("online", 5, 6), "frames": StreamStatus("stalled", reason="unplugged")}
    validate(state_payloads.camera_status_payload(ORIGIN, streams))
    camera = {"resolution": [346, 260], "events": True, "frames": True, "live": False}
    validate(
        state_payloads.info_payload(
            "robot",
            "s",
            version="0.1.0",
            models={"drafter": "d", "target": "t", "demo": True},
            runtimes=["onnx"],
            cameras={"front": camera},
            capabilities=["draft"],
            replay=True,
        )
    )
    with pytest.raises(ValueError, match="'fine' is none of"):
        state_payloads.status_payload("robot", "s", "fine")
