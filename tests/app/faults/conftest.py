"""The tiny pair in a configuration, for services in processes of their own."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def tiny_config(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("torch", reason="writing the tiny pair needs torch")
    from tests.models.tiny import make_pair

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
    drafter, target = make_pair(tmp_path / "pair", seed=1)
    path = tmp_path / "tiny.yaml"
    path.write_text(
        f"models: {{drafter: {{path: {drafter}}}, target: {{path: {target}}}}}\n"
        "decoding: {max_new_tokens: 6}\nwindows: {length_ms: 200, hop_ms: 200}\n"
    )
    return path
