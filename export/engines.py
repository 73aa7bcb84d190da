"""The engines of an exported folder: which profiles, in what order, with how much memory, and their manifest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

from export.engine_network import ATTENTION, CACHE_UPDATE, VERIFY_ROWS, BuiltEngine, Profile, build_engine, check_layers
from models.checkpoint import read_json
from models.errors import ModelError
from models.manifest import MANIFEST, read_manifest
from models.runtimes.engine_files import ENGINES, EngineSet
from models.runtimes.memory import PeakMemory
from models.runtimes.nvidia import (
    GpuDevice,
    GpuError,
    OutOfGpuMemory,
    find_gpu,
    need_precision,
    tensorrt_version,
)
from models.stored import sha256, stored_tensors

LEAST_CHUNK = 64  # tokens of a pass: with fewer, a build that has no memory is given up


def decoder_profiles(s_max: int, chunk: int, compact: bool = False) -> list[Profile]:
    """Prefill (a whole prompt or a chunk of it), decode, verify.

    TensorRT lays the weights out anew for some of them: seen with one layer 1024 wide, 22 MB of weights, 24.7 MB for
    the first alone and 43.1 MB for all three. compact: one for everything, of which decoding may be slower.
    """
    most = min(chunk, s_max)
    if compact:
        return [(1, min(28, most), most)]
    return [(1, max(1, most // 2), most), (1, 1, 1), (2, min(28, s_max), min(VERIFY_ROWS, s_max))]


def tree_profiles(most: int) -> list[Profile]:
    """Of the masked form, by preference: TensorRT-RTX 1.7.1 fails to build bf16 for the first, not for the second."""
    return [(1, min(28, most), min(2 * VERIFY_ROWS, most)), (1, 1, most)]


def build_engines(
    folder: Path,
    precision: str,
    report: Callable[[str], None],
    capability: str | None = None,
    chunk: int | None = None,
    progress: Callable[[str, int, int], None] = lambda phase, step, steps: None,
    *,
    compact: bool = False,
) -> EngineSet:
    """Build the engines of an exported folder and write them with their manifest; `report` gets a line for each.

    capability ("8.9") names another GPU than this machine's, where the library can build for it. chunk: tokens at
    most in one pass, all of the cache by default; half as many, and again, where the memory does not do for it.
    compact: the weights once in each engine. progress is told (phase, step, steps). Raises ModelError.
    """
    manifest = read_manifest(folder, _role(folder))
    device = None if capability else find_gpu()
    need_precision(precision, capability or (device.capability if device else ""))
    job = _Job(folder, manifest, precision, capability, report, progress, compact)
    most = min(chunk or manifest["s_max"], manifest["s_max"])
    (folder / ENGINES).unlink(missing_ok=True)  # a manifest never describes another build's engines
    while True:
        try:
            engines, plan = job.build(most)
            break
        except OutOfGpuMemory as error:
            if most <= LEAST_CHUNK:
                raise
            most = max(LEAST_CHUNK, most // 2)
            report(f"{error}: once more with --chunk {most}")
    report(f"peak memory: {job.memory}")
    found = job.describe(engines, plan, most, capability or (device.capability if device else ""), device)
    found.write(folder)
    return found


def build_decoder(folder: Path, manifest: Mapping[str, Any], precision: str) -> EngineSet:
    """The engines of a decoder alone (`export.twin`), for this machine's GPU, without a manifest. Raises GpuError."""
    device = find_gpu()
    job = _Job(folder, manifest, precision, None, lambda line: None, lambda phase, step, steps: None)
    engines, plan = job.build(manifest["s_max"])
    return job.describe(engines, plan, manifest["s_max"], device.capability, device)


@dataclass
class _Job:
    """The engines of one folder, each written as soon as it is built: two of a 7B are never in memory together."""

    folder: Path
    manifest: Mapping[str, Any]
    precision: str
    capability: str | None
    report: Callable[[str], None]
    progress: Callable[[str, int, int], None]
    compact: bool = False
    memory: PeakMemory = field(default_factory=PeakMemory)

    def build(self, most: int) -> tuple[dict[str, dict[str, Any]], dict[str, list[Profile]]]:
        """Engines as the manifest describes them, and the profiles of each. Raises GpuError."""
        plan = {"decoder": decoder_profiles(self.manifest["s_max"], most, self.compact)}
        if "frames" in self.manifest:
            frames = self.manifest["frames"]
            plan = {"vision": [(1, frames, frames)], **plan}
        lookup = _lookup_graph(self.folder, self.manifest)
        try:
            engines = {"embedding": self._write("embedding", self._one(lookup, []), 0)}
        finally:
            lookup.unlink()
        for name, profiles in plan.items():
            engines[name] = self._write(name, self._one(self.folder / f"{name}.onnx", profiles), len(profiles))
        path, (first, second) = self.folder / "decoder_tree.onnx", tree_profiles(most)
        try:
            plan["decoder_tree"], built = [first], self._one(path, [first])
        except OutOfGpuMemory:
            raise
        except GpuError:
            plan["decoder_tree"], built = [second], self._one(path, [second])
        engines["decoder_tree"] = self._write("decoder_tree", built, 1)
        return engines, plan

    def describe(
        self,
        engines: dict[str, dict[str, Any]],
        plan: Mapping[str, list[Profile]],
        most: int,
        capability: str,
        device: GpuDevice | None,
    ) -> EngineSet:
        """What the manifest says of engines that were built."""
        return EngineSet(
            tensorrt_version(), self.precision, capability, device.name if device else None,
            {f"{name}.onnx": sha256(self.folder / f"{name}.onnx") for name in plan}, engines,
            {name: [list(profile) for profile in profiles] for name, profiles in plan.items()}, VERIFY_ROWS, most,
        )  # fmt: skip

    def _one(self, path: Path, profiles: list[Profile]) -> BuiltEngine:
        def step(phase: str, done: int, steps: int) -> None:
            self.memory.look()
            self.progress(phase, done, steps)

        built = build_engine(path, profiles, self.precision, self.capability, step)
        self.memory.look()
        return built

    def _write(self, name: str, built: BuiltEngine, profiles: int) -> dict[str, Any]:
        if name.startswith("decoder"):
            check_layers(built, self.manifest, name)
        file = self.folder / f"{name}.engine"
        file.write_bytes(built.data)
        self.report(
            f"engine {name}: {len(built.data) / 1e6:,.1f} MB, {profiles} profiles, "
            f"{built.layers.get(CACHE_UPDATE, 0)} cache updates, {built.layers.get(ATTENTION, 0)} attentions"
        )
        return {"file": file.name, "bytes": len(built.data), "sha256": sha256(file)}


def _lookup_graph(folder: Path, manifest: Mapping[str, Any]) -> Path:
    """ids [1] to embeddings [1, D], the table where it is stored; a file that the caller removes."""
    stored = stored_tensors(folder / manifest["embedding"]["file"])[manifest["embedding"]["tensor"]]
    kind = {"F16": TensorProto.FLOAT16, "BF16": TensorProto.BFLOAT16, "F32": TensorProto.FLOAT}[stored.dtype]
    table = TensorProto(name="table", dims=stored.shape, data_type=kind, data_location=TensorProto.EXTERNAL)
    place = {"location": stored.file.name, "offset": stored.offset, "length": stored.length}
    for key, entry in place.items():
        table.external_data.add(key=key, value=str(entry))
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["stored"]),
        helper.make_node("Cast", ["stored"], ["embeddings"], to=TensorProto.FLOAT),
    ]
    ids = helper.make_tensor_value_info("ids", TensorProto.INT32, [1])
    embeddings = helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, [1, stored.shape[1]])
    graph = helper.make_graph(nodes, "embedding", [ids], [embeddings], [table])
    path = folder / ".embedding.onnx"
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=11), path)
    return path


def _role(folder: Path) -> str:
    if not (folder / MANIFEST).is_file():
        raise ModelError(f"{folder}: no {MANIFEST}; run `event-captioner export` on this checkpoint")
    return str(read_json(folder / MANIFEST).get("role"))
