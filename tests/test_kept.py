"""What is kept between test runs is made anew when anything that it hangs on is another."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from tests import kept

torch = pytest.importorskip("torch")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    kept._digest()  # of the real sources
    monkeypatch.setattr(kept, "ROOT", tmp_path)
    return tmp_path / ".pytest_cache"


def test_a_thing_is_made_once_and_not_at_all_by_half() -> None:
    made = []

    def make(out: Path) -> None:
        made.append(out)
        out.mkdir()
        if len(made) == 1:
            raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError):
        kept.kept("thing", make)
    assert kept.kept("thing", make) == kept.kept("thing", make)
    assert len(made) == 2


def test_what_nobody_has_tested_for_a_day_is_dropped(cache: Path) -> None:
    for name, days in (("kept-old", 2), ("kept-recent", 0)):
        (cache / name).mkdir(parents=True)
        os.utime(cache / name, (time.time() - days * kept.DAY_S,) * 2)
    out = kept.kept("thing", Path.mkdir)
    assert {folder.name for folder in cache.iterdir()} == {"kept-recent", out.parent.name}


def test_networks_that_differ_in_a_setting_or_a_shape_share_no_graph(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx

    from export import graphs
    from models.llama import LlamaConfig, LlamaDecoder

    traced = []
    monkeypatch.setattr(graphs, "_export", lambda *given: traced.append(given) or onnx.ModelProto())

    def export(rows: int = 5, **changes: float) -> int:
        sizes = {"vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
        heads = {"num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 8, "rms_norm_eps": 1e-5}
        settings = sizes | heads | {"rope_theta": 1e4, "max_position_embeddings": 64} | changes
        with kept.traced_once():
            graphs._export(LlamaDecoder(LlamaConfig(**settings)), (torch.zeros(rows, 8),), (), ["x"], ["y"])
        return len(traced)

    assert [export(), export()] == [1, 1]
    assert [export(rows=6), export(rope_theta=1e6), export(rms_norm_eps=1e-6), export(vocab_size=9)] == [2, 3, 4, 5]
    assert export() == 5


def test_a_network_with_values_of_its_own_in_the_graph_is_refused() -> None:
    from export import graphs

    network = torch.nn.Linear(2, 2)
    network.register_buffer("scale", torch.from_numpy(np.ones(2)))
    with kept.traced_once(), pytest.raises(AssertionError, match="not in the key"):
        graphs._export(network, (), (), [], [])
