"""Validates payloads against the shipped schemas, and refuses a field that no schema describes."""

from __future__ import annotations

from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from app.publishing import schemas


def _closed(node: Any) -> Any:
    """The schema, with every object that lists its properties allowing no others."""
    if isinstance(node, list):
        return [_closed(item) for item in node]
    if not isinstance(node, dict):
        return node
    result = {key: _closed(value) for key, value in node.items()}
    if isinstance(node.get("properties"), dict) and node.get("type") == "object":
        result.setdefault("additionalProperties", False)
    return result


_SCHEMAS = {name: _closed(schemas.load(name)) for name in schemas.NAMES}
_REGISTRY: Registry[Any] = Registry().with_resources(
    [(f"{name}.json", Resource.from_contents(schema)) for name, schema in _SCHEMAS.items()]
)


def validate(payload: dict[str, Any]) -> None:
    """Raises jsonschema.ValidationError. The schema is the one the payload itself names."""
    name = payload["schema"].partition("/")[0]
    Draft202012Validator(_SCHEMAS[name], registry=_REGISTRY).validate(payload)
