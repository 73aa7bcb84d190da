"""The configuration of the published pair: valid, and clear about a folder that is not there."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.cli import cli
from app.config import load_config
from models.bundle import load_model
from models.errors import ModelError

FILE = Path(__file__).parents[2] / "configs" / "eventgpt-7b+video-llava-7b.yaml"


def test_check_config_accepts_it() -> None:
    result = CliRunner().invoke(cli, ["check-config", str(FILE)])
    assert result.exit_code == 0, result.output
    assert "is valid" in result.stdout


def test_it_asks_what_the_models_were_trained_for() -> None:
    config = load_config(FILE)
    assert (config.windows.frames, config.windows.drafter_span_ms) == (8, 50)
    assert config.model_path("drafter").name == "eventgpt-7b"
    assert config.model_path("target").name == "video-llava-7b-hf"


def test_a_folder_that_is_not_there_yet_is_one_line(tmp_path: Path) -> None:
    copy = tmp_path / "configs" / FILE.name
    copy.parent.mkdir()
    copy.write_text(FILE.read_text())
    with pytest.raises(ModelError, match=r"eventgpt-7b: no such folder; name the folder of an exported model"):
        load_model(load_config(copy).model_path("drafter"), "drafter")
