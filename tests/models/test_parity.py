"""`python -m models.parity`: exit code 0 for both models through PyTorch and ONNX, 1 for whatever is amiss."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from models import parity  # noqa: E402
from models.errors import ModelError  # noqa: E402
from models.eventgpt import EventGPT  # noqa: E402
from models.runtimes.torch import TorchDecoder  # noqa: E402

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden"
pytestmark = [
    pytest.mark.skipif(not GOLDEN.is_dir(), reason="../shared/golden is absent"),
    pytest.mark.usefixtures("graphs_traced_once"),
]


@pytest.mark.parametrize(
    ("checkpoint", "golden", "stages"),
    [
        ("eventgpt/ckpt_A_noclip", "eventgpt/golden_A_sparse.npz", 16),
        ("videollava/ckpt_A_new", "videollava/golden_A.npz", 12),
        ("videollava/ckpt_A_inmem", "videollava/golden_A_old444.npz", 2),
    ],
)
def test_both_models_pass(checkpoint, golden, stages, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["parity", str(GOLDEN / checkpoint), str(GOLDEN / golden)])
    assert parity.main() == 0, capsys.readouterr().out
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == stages + 2
    assert lines[-1] == "within 1e-04"


def test_a_difference_is_seen_in_its_stage():
    folder = GOLDEN / "eventgpt"
    model, outputs = EventGPT.load(folder / "ckpt_A_full"), parity.read_golden(folder / "golden_A_overlap.npz")
    outputs["projector_out"] = outputs["projector_out"] + np.float32(1e-3)
    outputs["prompt1_greedy"][3] += 1
    outputs["prompt1_last_logits"][0] = np.nan
    decoder = TorchDecoder(model.decoder, parity.cache_rows(outputs, model.visual_tokens))
    found = parity.differences(outputs, parity._torch_stages(model), decoder, -200)
    failed = {name for name, difference in found.items() if not parity.within(name, difference)}
    assert failed == {"projector_out", "prompt1_greedy", "prompt1_last_logits"}


def test_files_that_do_not_belong_are_one_line(tmp_path, monkeypatch, capsys):
    folder = GOLDEN / "eventgpt"
    model, other = EventGPT.load(folder / "ckpt_A_full"), parity.read_golden(folder / "golden_A_overlap.npz")
    other["pooled"] = other["pooled"][:-1]
    decoder = TorchDecoder(model.decoder, 128)
    with pytest.raises(ModelError, match=r"pooled: .* the file belongs to another checkpoint"):
        parity.differences(other, parity._torch_stages(model), decoder, -200)
    np.savez(tmp_path / "nothing.npz", a=np.zeros(1))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "nothing.npz").read_bytes()[:100])
    for golden, message in (
        (tmp_path / "nothing.npz", "no pixels"),
        (tmp_path / "none.npz", "not a readable .npz"),
        (tmp_path / "cut.npz", "not a readable .npz"),
    ):
        monkeypatch.setattr(sys, "argv", ["parity", str(folder / "ckpt_A_full"), str(golden)])
        assert parity.main() == 1
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
