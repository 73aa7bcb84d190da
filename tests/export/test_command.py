"""`export` as a command: what ends it early leaves nothing behind; a damaged manifest is one line."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.cli import cli
from app.commands import export as command
from export import checkpoint as exporting
from export.folder import workplace
from models.checkpoint import CheckpointError
from models.manifest import MANIFEST
from tests.models.tiny import write_checkpoint


def test_sigterm_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def terminated(*parts: object) -> None:
        (made,) = tmp_path.glob("models/of/.drafter.*/model.safetensors")  # 14 GB of a 7B model
        assert made.stat().st_size
        os.kill(os.getpid(), signal.SIGTERM)

    checkpoint, before = write_checkpoint(tmp_path / "checkpoint", "drafter"), signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(exporting, "_write_graphs", terminated)
    result = CliRunner().invoke(cli, ["export", str(checkpoint), str(tmp_path / "models/of/drafter"), "--s-max", "160"])
    assert result.exit_code == 143, result.output
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
    assert signal.getsignal(signal.SIGTERM) is before


def test_parents_stay_where_something_came_to_be(tmp_path: Path) -> None:
    with workplace(tmp_path / "a/b/out") as folder:
        folder.rename(tmp_path / "a/b/out")
    assert (tmp_path / "a/b/out").is_dir()
    with pytest.raises(ZeroDivisionError), workplace(tmp_path / "a/c/out"):
        raise ZeroDivisionError
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]


def test_only_a_sound_manifest_of_the_precision_saves_an_export(tmp_path: Path) -> None:
    assert command._exported(tmp_path, "fp16") is None
    for content, manifest in (
        ('{"precision": {"compute": "float16"}}', {"precision": {"compute": "float16"}}),
        ('{"precision": {"compute": "float32"}}', None),
        ('{"precision": []}', None),
    ):
        (tmp_path / MANIFEST).write_text(content)
        assert command._exported(tmp_path, "fp16") == manifest
    (tmp_path / MANIFEST).write_text('{"a"')
    with pytest.raises(CheckpointError, match=r"manifest\.json: not readable as JSON"):
        command._exported(tmp_path, "fp16")
