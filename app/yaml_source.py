"""Reads a YAML file so that a mistake in it can be told with its line, in words that a user can act on."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

Key = tuple[str | int, ...]


class ConfigError(Exception):
    """The configuration cannot be used; the message has one line for each mistake."""


@dataclass(frozen=True, slots=True)
class YamlSource:
    """A YAML file: its data and the line of every key."""

    path: Path
    data: dict[str, Any]
    lines: dict[Key, int]

    @classmethod
    def read(cls, path: Path) -> YamlSource:
        """Read a file that holds one mapping (an empty file is an empty one). Raises ConfigError."""
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ConfigError(f"{path}: is not UTF-8 text: is it a YAML file?") from None
        try:
            node = yaml.compose(text, Loader=yaml.SafeLoader)
            lines = {} if node is None else dict(_lines(node, (), path, set()))
            data = yaml.safe_load(text)
        except yaml.MarkedYAMLError as error:
            line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
            raise ConfigError(f"{path}{line}: is not YAML: {error.problem}") from None
        except (yaml.YAMLError, ValueError) as error:
            raise ConfigError(f"{path}: is not YAML: {str(error).splitlines()[0]}") from None
        if not isinstance(data, dict | None):
            raise ConfigError(f"{path}: holds {_show(data)}; it should hold keys and values, such as `node: demo`")
        return cls(path, data or {}, lines)

    def place(self, key: Key) -> str:
        """`file:line: dotted.key`; the nearest enclosing key's line where the key itself has none."""
        line = next((self.lines[key[:n]] for n in range(len(key), 0, -1) if key[:n] in self.lines), None)
        where = f"{self.path}:{line}" if line else str(self.path)
        return f"{where}: {'.'.join(map(str, key))}" if key else where


def explain(error: ValidationError, source: YamlSource, model: type[BaseModel]) -> list[str]:
    """One line a mistake: where it is, what was found and what was expected (read off the model's JSON Schema)."""
    schema = model.model_json_schema()
    told: dict[Key, str] = {}
    for problem in error.errors():
        key, field = _field(problem["loc"], schema)
        if problem["type"] == "extra_forbidden":
            message = _unknown(str(problem["loc"][-1]), field)
            key = problem["loc"]
        elif problem["type"] == "value_error":
            message = str(problem["ctx"]["error"])
        else:
            found = _at(source.data, key)
            message = f"{_show(found)} is not {_expected(field, schema)}"
        told.setdefault(key, f"{source.place(key)}: {message}")
    return list(told.values())


def _lines(node: yaml.Node, key: Key, path: Path, open_nodes: set[int]) -> Iterator[tuple[Key, int]]:
    """The line of every key below a node. Raises ConfigError for a key given twice, which YAML would let pass."""
    if not isinstance(node, yaml.MappingNode) or id(node) in open_nodes:
        return
    seen: set[str] = set()
    for name, value in node.value:
        line = name.start_mark.line + 1
        if name.value in seen:
            raise ConfigError(f"{path}:{line}: {'.'.join(map(str, (*key, name.value)))}: is given twice")
        seen.add(name.value)
        yield (*key, name.value), line
        yield from _lines(value, (*key, name.value), path, open_nodes | {id(node)})


def _resolve(field: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """Follow a reference to another section's schema."""
    choices = [choice for choice in field.get("anyOf", ()) if choice.get("type") != "null"]
    reference = field.get("$ref") or (choices[0].get("$ref") if len(choices) == 1 else None)
    resolved: dict[str, Any] = schema["$defs"][reference.rsplit("/", 1)[1]] if reference else field
    return resolved


def _field(location: Key, schema: dict[str, Any]) -> tuple[Key, dict[str, Any]]:
    """The deepest key of a pydantic location that is a key of the file, and its schema (a union's branch is no key)."""
    key: Key = ()
    field = schema
    for part in location:
        named = field.get("additionalProperties") or next(iter(field.get("patternProperties", {}).values()), None)
        inner = field.get("properties", {}).get(part, named)
        if not isinstance(inner, dict):  # a section of names of one's own describes them all at once
            break
        key, field = (*key, part), _resolve(inner, schema)
    return key, field


def _at(data: Any, key: Key) -> Any:
    for part in key:
        data = data.get(part) if isinstance(data, dict) else None
    return data


def _show(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _unknown(name: str, section: dict[str, Any]) -> str:
    known = sorted(section.get("properties", {}))
    near = difflib.get_close_matches(name, known, n=1)
    return "unknown key" + (f"; did you mean {near[0]}?" if near else f"; known here: {', '.join(known)}")


def _expected(field: dict[str, Any], schema: dict[str, Any]) -> str:
    """What a field takes, in words."""
    field = _resolve(field, schema)
    if "anyOf" in field:
        return " or ".join(_expected(choice, schema) for choice in field["anyOf"] if choice.get("type") != "null")
    if "const" in field:
        return str(field["const"])
    if "enum" in field:
        return f"one of {', '.join(map(str, field['enum']))}"
    kind = field.get("type")
    if kind == "object":
        return f"a section with keys such as {next(iter(field.get('properties', {'…': None})))}"
    if kind == "array":
        fewest, most = field.get("minItems"), field.get("maxItems")
        count = "" if fewest is None else f" of {fewest}" if fewest == most else f" of {fewest} to {most}"
        return f"a list{count} items, each {_expected(field.get('items', {}), schema)}"
    if kind == "boolean":
        return "true or false"
    if kind == "string":
        longest = f" of {field.get('minLength', 0)} to {field['maxLength']} characters" if "maxLength" in field else ""
        return f"text{longest}" + (f" matching {field['pattern']}" if "pattern" in field else "")
    low = field.get("minimum", field.get("exclusiveMinimum"))
    above = "above" if "exclusiveMinimum" in field else "from"
    bounds = f" {above} {low:g} to {field['maximum']:g}" if low is not None else ""
    return {"integer": "a whole number", "number": "a number"}.get(str(kind), "a value") + bounds
