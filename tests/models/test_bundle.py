"""A model folder as a whole: what it gives, what it refuses, and that captioning imports no torch."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.bundle import ModelError, load_first, load_model
from models.manifest import MANIFEST
from models.runtimes.shared import runtime_of
from models.stored import sha256
from tests.models.tiny import make_pair

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture
def broken(pair: tuple[Path, Path], tmp_path: Path) -> Path:
    """A copy of the target to be damaged."""
    return Path(shutil.copytree(pair[1], tmp_path / "target"))


def test_a_pair_loads(pair: tuple[Path, Path]) -> None:
    drafter, target = load_model(pair[0], "drafter"), load_model(pair[1], "target", max_new_tokens=64)
    assert (drafter.name, drafter.demo, drafter.runtime) == ("tiny-drafter", True, "onnx")
    assert (drafter.vocabulary, target.vocabulary) == (96, 128)
    assert (drafter.bos_id, drafter.eos_id) == (target.bos_id, target.eos_id) == (1, 2)
    assert (drafter.frames, drafter.visual_tokens) == (5, 10)
    assert (target.frames, target.visual_tokens) == (8, 40)
    for model in (drafter, target):
        prompt = model.prompt()
        assert prompt.num_visual == model.visual_tokens
        assert len(prompt) == model.manifest["prompt"]["rows"]
        assert prompt.head_ids[0] == model.bos_id
    assert drafter.decoder.vocabulary == 96


def test_pixels(pair: tuple[Path, Path]) -> None:
    drafter, target = load_model(pair[0], "drafter"), load_model(pair[1], "target")
    none = np.zeros(0, np.int16)
    assert drafter.pixels_from_events(none, none, none, (40, 30)).shape == (5, 3, 28, 28)
    assert target.pixels_from_frames([np.zeros((30, 40, 3), np.uint8)] * 8).shape == (8, 3, 28, 28)


def test_a_runtime_that_is_not_installed_is_passed_over(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "models.runtimes.torch", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    told: list[tuple[str, str, str]] = []
    model = load_first(pair[1], "target", ["torch", "onnx"], lambda *line: told.append(line))
    assert runtime_of(model) == "onnx"
    assert [line[:2] for line in told] == [("torch", "onnx")]
    with pytest.raises(ModelError, match="torch is not installed; pip install"):
        load_model(pair[1], "target", "torch")


def test_a_caption_needs_no_torch(pair: tuple[Path, Path]) -> None:
    """Both models, from pixels to text, in a process of their own."""
    program = f"""
import sys
from pathlib import Path
import numpy as np
from models.bundle import load_model

for folder, role in (({str(pair[0])!r}, "drafter"), ({str(pair[1])!r}, "target")):
    model = load_model(Path(folder), role)
    if role == "drafter":
        pixels = model.pixels_from_events([1, 2], [3, 4], [0, 1], (40, 30))
    else:
        pixels = model.pixels_from_frames([np.full((30, 40, 3), i, np.uint8) for i in range(8)])
    prompt, decoder = model.prompt(), model.decoder
    parts = decoder.embed(prompt.head), model.vision.encode(pixels, 1), decoder.embed(prompt.tail)
    logits = decoder.forward(np.concatenate(parts), 0, np.array([len(prompt) - 1]), 1)
    ids = [int(logits[0].argmax())]
    for _ in range(5):
        logits = decoder.forward(decoder.embed(np.array(ids[-1:])), len(prompt) + len(ids) - 1, np.array([0]), 1)
        ids.append(int(logits[0].argmax()))
    model.tokenizer.decode(ids)
heavy = sorted({{"torch", "transformers", "onnx", "cv2", "dv_processing"}} & set(sys.modules))
assert not heavy, heavy
"""
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def cut_weights(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-2])


def flip_weights(folder: Path) -> None:
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)


def damage_graph(folder: Path) -> None:
    """A graph that its manifest describes and that ONNX Runtime cannot read."""
    (folder / "decoder.onnx").write_bytes(b"\xff" * 99)
    entry = {"bytes": 99, "sha256": sha256(folder / "decoder.onnx")}
    rewrite(folder, lambda manifest: manifest["graphs"].update({"decoder.onnx": entry}))


def shift_ids(folder: Path) -> None:
    """A tokenizer whose words lie beyond the vocabulary, BOS and EOS within it."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = {word: i if i < 3 else i + 128 for word, i in words.items()}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def reconfigure(folder: Path, **settings: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | settings))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no manifest": (lambda f: (f / MANIFEST).unlink(), "no manifest.json; run `event-captioner export`"),
    "manifest is no JSON": (lambda f: (f / MANIFEST).write_text("{"), "target/manifest.json: not readable as JSON"),
    "another format": (lambda f: rewrite(f, lambda m: m.update(format="x/9")), "format 'x/9', not"),
    "field missing": (lambda f: rewrite(f, lambda m: m.pop("s_max")), "s_max is missing or no int"),
    "sizes missing": (lambda f: rewrite(f, lambda m: m["decoder"].pop("layers")), "decoder sizes are incomplete"),
    "no sha256": (lambda f: rewrite(f, lambda m: m["graphs"]["vision.onnx"].pop("sha256")), "no bytes or no sha256"),
    "no size": (lambda f: rewrite(f, lambda m: m["weights"].update({"x": 3})), "x has no bytes or no sha256"),
    "weights cut": (cut_weights, "target/model.safetensors: .* bytes, the manifest says"),
    "weights changed": (flip_weights, "target/model.safetensors: not the file that the manifest describes"),
    "graph missing": (lambda f: (f / "decoder_tree.onnx").unlink(), "target/decoder_tree.onnx: no such file"),
    "graph damaged": (damage_graph, "target/decoder.onnx: not usable"),
    "tensor missing": (lambda f: rewrite(f, lambda m: m["embedding"].update(tensor="x")), "missing tensor x"),
    "wrong shape": (lambda f: rewrite(f, lambda m: m["decoder"].update(width=33)), r"shape \[128, 32\], the manifest"),
    "ids too large": (shift_ids, r"target: the tokenizer gives id \d+, the vocabulary is 128: .* another checkpoint"),
    "another BOS": (lambda f: reconfigure(f, bos_token_id=7), "config.json's bos_token_id is 7, the tokenizer's 1"),
    "another EOS": (lambda f: reconfigure(f, text_config={"eos_token_id": [5, 6]}), r"eos_token_id is \[5, 6\]"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "no tokenizer.json or tokenizer.model"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_one_line(broken: Path, damage: str) -> None:
    break_it, message = DAMAGES[damage]
    break_it(broken)
    with pytest.raises(ModelError, match=message) as caught:
        load_model(broken, "target")
    assert "\n" not in str(caught.value)


def test_a_wrong_role_or_folder_or_cache_is_one_line(pair: tuple[Path, Path]) -> None:
    with pytest.raises(ModelError, match="this model is a target, not a drafter; swap the two folders"):
        load_model(pair[1], "drafter")
    with pytest.raises(ModelError, match="no such folder"):
        load_model(pair[1] / "absent", "target")
    with pytest.raises(
        ModelError, match=r"tiny-target: a prompt of 49 rows and 112 new tokens exceed the cache of 160"
    ):
        load_model(pair[1], "target", max_new_tokens=112)
