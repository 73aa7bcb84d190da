"""The configuration: strict, documented, and telling a mistake in one line with its place."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from app.config import BUNDLED_PAIR, Config, json_schema, load_config
from app.yaml_source import ConfigError

CONFIGS = Path(__file__).parents[2] / "configs"


def write(folder: Path, text: str) -> Path:
    path = folder / "x.yaml"
    path.write_text(text)
    return path


def mistakes(folder: Path, text: str) -> list[str]:
    path = write(folder, text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    return [line.replace(str(path), "x.yaml") for line in str(caught.value).splitlines()]


def test_nothing_configured_is_the_bundled_pair(tmp_path: Path) -> None:
    assert load_config(None) == load_config(write(tmp_path, "")) == Config()
    assert Config().model_path("drafter") == BUNDLED_PAIR / "drafter"


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "models: {target: {path: big}}\nmqtt: {password_file: secret}"))
    assert config.model_path("target") == tmp_path / "big"
    assert config.mqtt.password_file == str(tmp_path / "secret")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "decoding:\n  placement: laed\n",
            "x.yaml:2: decoding.placement: 'laed' is not one of auto, lead, serial, overlap",
        ),
        ("decodng: {}", "x.yaml:1: decodng: unknown key; did you mean decoding?"),
        ("mqtt:\n  user: me", "x.yaml:2: mqtt.user: unknown key; known here: "),
        ("windows:\n\n  frames: 0", "x.yaml:3: windows.frames: 0 is not a whole number from 1 to 64"),
        ("windows: {frames: '8'}", "x.yaml:1: windows.frames: '8' is not a whole number from 1 to 64"),
        (
            "decoding: {draft_tokens: some}",
            "x.yaml:1: decoding.draft_tokens: 'some' is not auto or a whole number from 1 to 64",
        ),
        ("replay: {speed: 0}", "x.yaml:1: replay.speed: 0 is not max or a number above 0 to 1000"),
        ("mqtt: {enabled: maybe}", "x.yaml:1: mqtt.enabled: 'maybe' is not true or false"),
        ("mqtt: {url: 'localhost'}", "x.yaml:1: mqtt.url: broker URL 'localhost': "),
        ("node: a/b", "x.yaml:1: node: 'a/b' cannot be a level of an MQTT topic"),
        ("models: 3", "x.yaml:1: models: 3 is not a section"),
        ("node: a\nnode: b", "x.yaml:2: node: is given twice"),
        ("node: [", "x.yaml:1: is not YAML: "),
        ("- node", "x.yaml: holds ['node']; it should hold keys and values"),
        (
            "windows: {length_ms: 20, hop_ms: 20, drafter_span_ms: 50}",
            "x.yaml:1: windows: drafter_span_ms (50) is longer than length_ms (20)",
        ),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, text: str, line: str) -> None:
    (told,) = mistakes(tmp_path, text)
    assert told.startswith(line)


def test_every_mistake_is_told(tmp_path: Path) -> None:
    assert len(mistakes(tmp_path, "node: ''\nwindows: {hop_ms: 1}\nreplay: {spede: 2}")) == 3


def test_an_absent_file_and_a_binary_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_config(tmp_path / "absent.yaml")
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        load_config(tmp_path / "x.yaml")


@given(st.text(max_size=60))
def test_any_text_is_a_configuration_or_a_config_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_text(text, encoding="utf-8", errors="replace")
    with contextlib.suppress(ConfigError):
        load_config(path)


def test_the_schema_file_is_fresh() -> None:
    written = json.loads((CONFIGS / "schema.json").read_text())
    assert written == json_schema(), "run: event-captioner check-config --write-schema configs/schema.json"


def test_every_key_is_described_and_bounded() -> None:
    def check(section: dict[str, object]) -> None:
        for name, field in section["properties"].items():  # type: ignore[attr-defined]
            assert field.get("title"), name
            assert field.get("description"), name
            assert "minimum" in str(field).lower() or "number" not in str(field.get("type")), name

    schema = json_schema()
    check(schema)
    for section in schema["$defs"].values():
        check(section)


@pytest.fixture(scope="module")
def schema() -> jsonschema.Draft202012Validator:
    """Its own validity is checked once: that takes longer than any configuration."""
    jsonschema.Draft202012Validator.check_schema(json_schema())
    return jsonschema.Draft202012Validator(json_schema())


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_configurations_are_valid(path: Path, schema: jsonschema.Draft202012Validator) -> None:
    load_config(path)
    schema.validate(yaml.safe_load(path.read_text()))
