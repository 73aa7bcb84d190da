"""Both models at their published size, random weights: exported within 8 GiB of resident memory. Part of `make soak`.

The checkpoint and its export take 30 GB of disk, one model at a time, under pytest's temporary folder (`--basetemp`).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest

from models.checkpoint import Names
from models.eventgpt import NAMES as EVENTGPT
from models.manifest import read_manifest
from models.stored import stored_tensors
from models.video_llava import NAMES as PORT
from tests.models.published import published, write_random

pytestmark = pytest.mark.slow

PEAK_GIB = 8.0
DISK_BYTES = 31 * 10**9
EXPORT = """
import sys
from pathlib import Path
from export.checkpoint import export_checkpoint
export_checkpoint(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
"""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A folder with room for a model and its export; emptied after, whatever happened."""
    free = shutil.disk_usage(tmp_path).free
    if free < DISK_BYTES:
        pytest.skip(f"{free / 1e9:.0f} GB free at {tmp_path}, {DISK_BYTES / 1e9:.0f} needed; name a disk by --basetemp")
    yield tmp_path
    for folder in tmp_path.iterdir():
        shutil.rmtree(folder)


@pytest.mark.timeout(7200)
@pytest.mark.parametrize(
    ("network", "role", "names", "s_max"), [("eventgpt", "drafter", EVENTGPT, 744), ("port", "target", PORT, 2176)]
)
def test_a_7b_export_fits_an_ordinary_machine(
    disk: Path, network: str, role: str, names: Names, s_max: int, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, out = disk / "checkpoint", disk / "out"
    size = write_random(checkpoint, network)
    peak_gib, output = _export(checkpoint, out, s_max)
    with capsys.disabled():
        print(
            f"\n{network}: {size / 1e9:.1f} GB of weights exported, peak resident memory {peak_gib:.2f} GiB\n{output}"
        )
    assert peak_gib <= PEAK_GIB
    assert "1 of 32 decoder layers" in output
    manifest = read_manifest(out, role)
    assert manifest["precision"] == {"storage": "float16", "compute": "float32"}
    assert (manifest["decoder"]["layers"], manifest["parity_layers"]) == (32, 1)
    _check_graphs(out, network, names)
    assert {path.name for path in disk.iterdir()} == {"checkpoint", "out"}


def _export(checkpoint: Path, out: Path, s_max: int) -> tuple[float, str]:
    """Export in a process of its own: its peak resident memory in GiB, by the kernel's account, and what it said."""
    log = out.parent.parent / f"{out.parent.name}.log"
    with log.open("w+") as stream:
        child = subprocess.Popen(
            [sys.executable, "-c", EXPORT, str(checkpoint), str(out), str(s_max)],
            stdout=stream,
            stderr=subprocess.STDOUT,
            cwd=Path(__file__).parents[2],
        )
        try:
            _, status, usage = os.wait4(child.pid, 0)
        except BaseException:  # pytest's timeout too
            child.kill()
            child.wait()
            raise
        child.returncode = os.waitstatus_to_exitcode(status)
    output = log.read_text()
    log.unlink()
    assert child.returncode == 0, output
    return usage.ru_maxrss / 2**20, output


def _check_graphs(out: Path, network: str, names: Names) -> None:
    """Every weight that a graph reads is where the checkpoint's tensor of that name lies, and none is left out."""
    index = json.loads((out / "model.safetensors.index.json").read_text())["weight_map"]
    stored = {name: tensor for file in set(index.values()) for name, tensor in stored_tensors(out / file).items()}
    place = {}
    for name in published(network):
        if (ours := names.ours(name)) is not None:
            place[ours] = (stored[name].file.name, stored[name].offset, stored[name].length)
    read = set()
    for graph_name, prefix in (("vision", "vision."), ("decoder", "decoder."), ("decoder_tree", "decoder.")):
        graph = onnx.load(out / f"{graph_name}.onnx", load_external_data=False)
        for tensor in graph.graph.initializer:
            if not tensor.external_data:
                continue
            ours = prefix + tensor.name.removesuffix(".stored")
            at = {entry.key: entry.value for entry in tensor.external_data}
            assert (at["location"], int(at["offset"]), int(at["length"])) == place[ours], ours
            read.add(ours)
    last_layer = "vision.video_tower.encoder.layers.23."  # of Video-LLaVA's tower: never run
    unread = {ours for ours in place if ours not in read and not ours.startswith(last_layer)}
    assert unread == {"decoder.model.embed_tokens.weight"}  # the runtime reads its rows from the file
