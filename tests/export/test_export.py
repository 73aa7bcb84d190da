"""Export: golden outputs through ONNX, one copy of the weights, and nothing left behind by a failure."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from export.checkpoint import export_checkpoint
from export.parity import check_parity
from models.checkpoint import CheckpointError
from models.errors import ModelError
from models.manifest import MANIFEST
from models.runtimes.onnx import DecoderSizes, OnnxDecoder, OnnxVision
from models.stored import stored_tensors
from models.video_llava import VideoLlava
from tests.models.tiny import make_model, write_checkpoint

GOLDEN = Path(__file__).parents[3] / "shared/golden"
pytestmark = pytest.mark.usefixtures("graphs_traced_once")
golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="../shared/golden is absent")


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("export") / "target", "target")


def open_exported(folder: Path) -> tuple[OnnxVision, OnnxDecoder]:
    manifest = json.loads((folder / MANIFEST).read_text())
    embedding = stored_tensors(folder / manifest["embedding"]["file"])[manifest["embedding"]["tensor"]]
    decoder = OnnxDecoder(folder, DecoderSizes(s_max=manifest["s_max"], **manifest["decoder"]), embedding)
    return OnnxVision(folder / "vision.onnx"), decoder


def golden_run(vision: OnnxVision, decoder: OnnxDecoder, outputs: dict[str, np.ndarray], visual: np.ndarray) -> None:
    """Prefill's logits and 24 greedy tokens with theirs, of both golden prompts, over the exported decoder."""
    for k in (0, 1):
        embeddings = outputs[f"prompt{k}_inputs_embeds"].reshape(-1, decoder.width)
        rows = len(embeddings)
        logits = decoder.forward(embeddings, 0, np.arange(rows), 1)
        np.testing.assert_allclose(logits, outputs[f"prompt{k}_logits"].reshape(rows, -1), rtol=0, atol=1e-4)
        greedy, last = [], logits[-1:]
        for step in range(24):
            np.testing.assert_allclose(last[0], outputs[f"prompt{k}_step_logits"][step], rtol=0, atol=1e-4)
            greedy.append(int(last[0].argmax()))
            last = decoder.forward(decoder.embed(np.array(greedy[-1:])), rows + step, np.array([0]), 1)
        assert greedy == outputs[f"prompt{k}_greedy"].tolist()


@golden
def test_eventgpt_from_a_pickled_checkpoint(tmp_path: Path) -> None:
    """Pickled weights become safetensors; float32 stays float32; the official config learns its CLIP's sizes."""
    lines: list[str] = []
    manifest = export_checkpoint(GOLDEN / "eventgpt/ckpt_A_bin", tmp_path / "out", 72, report=lines.append)
    assert [line.split(":")[0] for line in lines] == [f"parity {stage}" for stage in manifest["parity"]]
    assert max(manifest["parity"].values()) <= 1e-4
    assert (manifest["role"], manifest["precision"]) == ("drafter", {"storage": "float32", "compute": "float32"})
    assert json.loads((tmp_path / "out/config.json").read_text())["vision_config"]["image_size"] == 56
    vision, decoder = open_exported(tmp_path / "out")
    outputs = dict(np.load(GOLDEN / "eventgpt/golden_A_overlap.npz"))
    tokens = vision.encode(outputs["pixel_values"], 1)
    np.testing.assert_allclose(tokens, outputs["pooled"], rtol=0, atol=1e-4)
    golden_run(vision, decoder, outputs, tokens)


@golden
def test_video_llava_from_shards_in_place(tmp_path: Path) -> None:
    """The hub's old layout in two shards, which the graphs point into as they are; inside the checkpoint's folder."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for file in (GOLDEN / "videollava/ckpt_A_hub").iterdir():
        shutil.copyfile(file, folder / file.name)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    manifest = export_checkpoint(folder, folder, 320, report=lambda line: None, name="golden")
    after = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"vision.onnx", "decoder.onnx", "decoder_tree.onnx", MANIFEST}
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
    assert all(path.stat().st_nlink == 1 for path in folder.iterdir())  # onnx refuses hard links
    assert (manifest["name"], manifest["role"], manifest["visual_tokens"]) == ("golden", "target", 136)
    assert list(manifest["weights"]) == [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    vision, decoder = open_exported(folder)
    outputs = dict(np.load(GOLDEN / "videollava/golden_A.npz"))
    tokens = vision.encode(outputs["pixel_values_videos"][0], 1)
    np.testing.assert_allclose(tokens, outputs["video_features"].reshape(136, -1), rtol=0, atol=1e-4)
    golden_run(vision, decoder, outputs, tokens)


def test_weights_are_kept_once_in_float16(target: Path) -> None:
    manifest = json.loads((target / MANIFEST).read_text())
    assert manifest["precision"] == {"storage": "float16", "compute": "float32"}
    stored = stored_tensors(target / "model.safetensors")
    for name in ("vision", "decoder", "decoder_tree"):
        graph = onnx.load(target / f"{name}.onnx", load_external_data=False)
        external = [tensor for tensor in graph.graph.initializer if tensor.external_data]
        assert external
        for tensor in external:
            place = {entry.key: entry.value for entry in tensor.external_data}
            assert place["location"] == "model.safetensors"
            assert (int(place["offset"]), int(place["length"])) in {(t.offset, t.length) for t in stored.values()}
        inside = sum(tensor.ByteSize() for tensor in graph.graph.initializer if not tensor.external_data)
        assert inside < 4096
        assert str(Path(__file__).parents[2]).encode() not in (target / f"{name}.onnx").read_bytes()


def test_projections_of_one_input_are_one_product(target: Path) -> None:
    graph = onnx.load(target / "decoder.onnx", load_external_data=False)
    onnx.checker.check_model(target / "decoder.onnx")  # nodes in order, nothing dangling
    kinds = [node.op_type for node in graph.graph.node]
    assert kinds.count("MatMul") == 4 * 2  # a layer: query + key + value, output, gate + up, down
    assert kinds.count("Split") == kinds.count("Concat") == 2 * 2


def test_a_difference_above_the_tolerance_is_an_error(target: Path) -> None:
    manifest, lines = json.loads((target / MANIFEST).read_text()), []
    with pytest.raises(ModelError, match=r"vision differs by .* more than 1e-12; nothing was exported"):
        check_parity(VideoLlava.load(target), target, manifest, 1e-12, lines.append)
    assert lines[0].startswith("parity vision: largest difference ")


def test_a_failed_export_leaves_nothing(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", "drafter")
    config = json.loads((checkpoint / "config.json").read_text())

    def fails(error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message) as caught:
            export_checkpoint(checkpoint, tmp_path / "out", report=print)
        assert "\n" not in str(caught.value)
        assert {path.name for path in tmp_path.iterdir()} - {"checkpoint"} <= {"out"}

    (tmp_path / "out").mkdir()
    fails(ModelError, "out: exists already")
    (tmp_path / "out").rmdir()
    (checkpoint / "config.json").write_text(json.dumps(config | {"model_type": "llama"}))
    fails(ModelError, "model_type is 'llama'; EventChat_llama or video_llava or llava can be used")
    (checkpoint / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    fails(CheckpointError, "missing tensor model.layers.2")
    (checkpoint / "config.json").write_text(json.dumps(config | {"eos_token_id": 7}))
    fails(ModelError, "config.json's eos_token_id is 7, the tokenizer's 2: the tokenizer belongs to another checkpoint")
    (checkpoint / "config.json").write_text(json.dumps(config))
    (checkpoint / "tokenizer.json").unlink()
    fails(ModelError, "no tokenizer, so the prompt's length is unknown; give s_max")
    shutil.rmtree(checkpoint)
    fails(CheckpointError, "config.json: no such file")
