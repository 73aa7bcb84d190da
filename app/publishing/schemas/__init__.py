"""JSON Schemas (draft 2020-12) of everything published: every field is described once."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

NAMES = ("caption", "draft", "telemetry", "status", "info", "camera_status", "result", "common")


def load(name: str) -> dict[str, Any]:
    """The schema called `<name>.json`."""
    schema: dict[str, Any] = json.loads(resources.files(__name__).joinpath(f"{name}.json").read_text(encoding="utf-8"))
    return schema
