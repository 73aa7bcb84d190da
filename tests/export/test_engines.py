"""TensorRT-RTX builds engines without a GPU: what is built is checked here; running them needs one (`-m gpu`)."""

from pathlib import Path

import pytest

from export import engines
from export.checkpoint import export_checkpoint
from export.engine_network import BuiltEngine, build_engine, check_layers
from export.engines import build_engines, decoder_profiles, tree_profiles
from export.twin import write_twin
from models.errors import ModelError
from models.llama import LlamaConfig
from models.runtimes.engine_files import read_engines
from models.runtimes.nvidia import GpuError, OutOfGpuMemory, tensorrt, tensorrt_version
from tests.models.tiny import S_MAX, write_checkpoint

tensorrt_rtx = pytest.importorskip(
    "tensorrt_rtx", reason="tensorrt-rtx is not installed (95 MB): pip install -e '.[tensorrt]' to build engines here"
)
COMPUTE = {"fp16": "float16", "bf16": "bfloat16", "int8": "float16", "int4": "float16", "fp8": "float16"}
PACKINGS = {"int8": "int8", "int4": "int4", "fp8": "fp8"}
FULL_ROWS = 2176  # cache rows of the target: 2,076 of the prompt, 64 new ones, drafts in flight


def exported(folder: Path, role: str, precision: str) -> Path:
    checkpoint = write_checkpoint(folder / "checkpoint", role)
    export_checkpoint(
        checkpoint, folder / "out", S_MAX, compute=COMPUTE[precision], packing=PACKINGS.get(precision),  # type: ignore[arg-type]
        report=lambda line: None,
    )  # fmt: skip
    return folder / "out"


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory.mktemp("half"), "target", "fp16")


slow = pytest.mark.slow


@pytest.mark.parametrize(
    ("role", "precision"),
    [("drafter", "int4"), pytest.param("target", "bf16", marks=slow), pytest.param("target", "int8", marks=slow)],
)
def test_every_profile_of_a_small_pair_builds(tmp_path: Path, role: str, precision: str) -> None:
    folder, lines, phases = exported(tmp_path, role, precision), [], set()
    built = build_engines(folder, precision, lines.append, "8.9", progress=lambda phase, step, steps: phases.add(phase))
    names = ("embedding", "vision", "decoder", "decoder_tree")
    assert [line.split(":")[0] for line in lines] == [*(f"engine {name}" for name in names), "peak memory"]
    assert phases
    assert built.profiles["decoder"] == [[1, S_MAX // 2, S_MAX], [1, 1, 1], [2, 28, 32]]
    assert read_engines(folder, tensorrt_version(), "8.9", "any GPU of it") == built
    with pytest.raises(ModelError, match=r"this is NVIDIA H200 \(9.0\); run `event-captioner export"):
        read_engines(folder, tensorrt_version(), "9.0", "NVIDIA H200")


@slow
@pytest.mark.parametrize(("role", "precision"), [("drafter", "int4"), ("target", "fp16")])
def test_the_bundled_pair_builds(tmp_path: Path, role: str, precision: str) -> None:
    pair, lines = Path(__file__).parents[2] / "models/demo/pair", []
    folder = tmp_path / "out"
    export_checkpoint(pair / role, folder, compute="float16", packing=PACKINGS.get(precision), report=lines.append)  # type: ignore[arg-type]
    assert set(build_engines(folder, precision, lines.append, "8.9").engines) >= {"vision", "decoder", "decoder_tree"}


def test_caches_are_bound_in_place_and_attention_sees_the_valid_rows(half: Path) -> None:
    """The contract's bindings, TensorRT's own cache and attention layers; every tensor of what was serialised."""
    built = build_engine(half / "decoder.onnx", decoder_profiles(S_MAX, S_MAX), "fp16", "8.9")
    assert built.layers["KV_CACHE_UPDATE"] == 2 * 2
    assert built.layers["ATTENTION_INPUT"] == built.layers["ATTENTION_OUTPUT"] == 2
    caches = {f"{kind}_{layer}" for layer in range(2) for kind in ("key", "value")}
    inputs = {"embeddings", "positions", "write", "valid", "rows"}
    outputs = {"logits", "greedy", "probability"}
    assert set(built.bindings) == inputs | caches | {f"new_{name}" for name in caches} | outputs
    for name in caches:
        assert built.bindings[name] == built.bindings[f"new_{name}"] == ("HALF", (1, 2, S_MAX, 16))
    assert built.bindings["embeddings"] == ("FLOAT", (-1, 32))
    assert built.bindings["logits"] == ("FLOAT", (-1, 128))
    assert built.bindings["greedy"] == ("INT32", (-1, 1))
    assert built.bindings["probability"] == ("FLOAT", (-1, 1))


def test_the_parsers_causal_attention_is_not_ours(half: Path) -> None:
    """Why the attention is finished by hand. When this fails, the parser has learnt it: `_finish_attention` can go."""
    trt = tensorrt()
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    assert trt.OnnxParser(network, trt.Logger(trt.Logger.ERROR)).parse_from_file(str(half / "decoder.onnx"))
    for i in range(network.num_layers):
        layer = network.get_layer(i)
        if layer.type == trt.LayerType.ATTENTION_INPUT:
            layer.__class__ = trt.IAttentionInputLayer
            assert layer.attention.causal_kind == trt.CausalMaskKind.UPPER_LEFT
            assert layer.attention.key_value_lengths is None


def test_the_full_size_twin_builds_with_all_profiles(tmp_path: Path) -> None:
    """One decoder layer of 7B shape (4096 wide, 32 heads of 128, 2,176 cache rows) in the drafter's int4.

    For named GPUs, with every profile that the runtime asks for; layers and bindings are the contract's.
    """
    config = LlamaConfig(512, 4096, 11008, 1, 32, 32, 128, 1e-5, 1e4, 4096)
    folder, manifest = tmp_path, write_twin(tmp_path, config, FULL_ROWS, "int4")
    plan = {"decoder": decoder_profiles(FULL_ROWS, FULL_ROWS), "decoder_tree": tree_profiles(FULL_ROWS)[:1]}
    assert plan["decoder"] == [(1, 1088, 2176), (1, 1, 1), (2, 28, 32)]
    for name, profiles in plan.items():
        for capability in ("8.6", "12.0") if name == "decoder" else ("8.9",):
            built = build_engine(folder / f"{name}.onnx", profiles, "int4", capability)
            check_layers(built, manifest, name)
            assert len(built.data) > 90_000_000
            assert built.bindings["embeddings"] == ("FLOAT", (-1, 4096))
    assert built.bindings["mask"] == ("BOOL", (-1, FULL_ROWS))


def test_fp8_weights_stay_fp8_and_only_where_the_gpu_has_it(half: Path, tmp_path: Path) -> None:
    """No calibration is needed: TensorRT keeps the weights in 8 bits and computes in 16."""
    config = LlamaConfig(128, 512, 1024, 1, 4, 4, 128, 1e-5, 1e4, 4096)
    sizes = []
    for packing, precision in (("fp8", "fp8"), (None, "fp16")):
        manifest = write_twin(tmp_path / precision, config, 256, packing)  # type: ignore[arg-type]
        built = build_engine(tmp_path / precision / "decoder.onnx", [(1, 1, 1)], precision, "8.9")
        check_layers(built, manifest, "decoder")
        sizes.append(len(built.data))
    assert sizes[0] < 0.7 * sizes[1]
    with pytest.raises(GpuError, match=r"compute capability 8.6: has no fp8, which begins with 8.9; export with"):
        build_engines(half, "fp8", lambda line: None, "8.6")
    with pytest.raises(GpuError, match="was not exported in fp8; export the checkpoint with --precision fp8"):
        build_engine(half / "decoder.onnx", [(1, 1, 1)], "fp8", "8.9")


def test_a_build_without_memory_is_tried_with_smaller_passes(half: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The builder's answers are scripted: a GPU that is full for passes of more than 64 tokens, then for any."""
    caches = {f"{new}{kind}_{layer}" for new in ("", "new_") for kind in ("key", "value") for layer in range(2)}
    bindings = dict.fromkeys(caches, ("HALF", (1, 2, S_MAX, 16)))
    built = BuiltEngine(memoryview(b"engine"), {"KV_CACHE_UPDATE": 4, "ATTENTION_INPUT": 2}, bindings)
    room = 64

    def build(path: Path, profiles: list[tuple[int, int, int]], *others: object) -> BuiltEngine:
        if any(most > room for *_, most in profiles):
            raise OutOfGpuMemory(f"{path.name}: TensorRT built no engine (out of memory); free some memory")
        return built

    monkeypatch.setattr(engines, "build_engine", build)
    lines: list[str] = []
    made = build_engines(half, "fp16", lines.append, "8.9")
    assert (made.chunk, made.profiles["decoder"][0]) == (64, [1, 32, 64])
    assert [line.rpartition(": ")[2] for line in lines if "once more" in line] == [
        "once more with --chunk 80",
        "once more with --chunk 64",
    ]
    assert read_engines(half, tensorrt_version(), "8.9", "any GPU of it").chunk == 64
    room = 8
    with pytest.raises(OutOfGpuMemory, match=r"decoder.onnx: TensorRT built no engine \(out of memory\)"):
        build_engines(half, "fp16", lines.append, "8.9")
    with pytest.raises(ModelError, match="no engines; run"):  # what was there is not taken for what was wanted
        read_engines(half, tensorrt_version(), "8.9", "any GPU of it")


def test_a_compact_engine_holds_the_weights_once(tmp_path: Path) -> None:
    """One profile for prefill, decode and verify: TensorRT lays the weights out anew for a profile of one token."""
    config = LlamaConfig(128, 512, 1024, 1, 4, 4, 128, 1e-5, 1e4, 4096)
    manifest, sizes = write_twin(tmp_path, config, 256), []
    for compact in (False, True):
        built = build_engine(tmp_path / "decoder.onnx", decoder_profiles(256, 256, compact), "fp16", "8.9")
        check_layers(built, manifest, "decoder")
        sizes.append(len(built.data))
    assert sizes[1] < 0.7 * sizes[0]


def test_an_engine_that_is_not_the_contracts_is_refused(half: Path) -> None:
    built = build_engine(half / "decoder.onnx", decoder_profiles(S_MAX, S_MAX), "fp16", "8.9")
    sizes = {"layers": 2, "kv_heads": 2, "head_dim": 16, "cache": "float16"}
    check_layers(built, {"decoder": sizes, "s_max": S_MAX}, "decoder")
    with pytest.raises(GpuError, match=r"decoder: TensorRT built 4 of 6 KV_CACHE_UPDATE layers; .*: choose runtime"):
        check_layers(built, {"decoder": sizes | {"layers": 3}, "s_max": S_MAX}, "decoder")
    with pytest.raises(GpuError, match=r"decoder: key_0 is .*160.*, not .*168.*; export the checkpoint again"):
        check_layers(built, {"decoder": sizes, "s_max": 168}, "decoder")


def test_what_cannot_be_built_is_one_line(half: Path, tmp_path: Path) -> None:
    def fails(message: str, precision: str, capability: str | None, profiles: list[tuple[int, int, int]]) -> None:
        with pytest.raises(GpuError, match=message) as caught:
            build_engine(half / "decoder.onnx", profiles, precision, capability)
        assert "\n" not in str(caught.value)

    profiles = decoder_profiles(S_MAX, S_MAX)
    fails(
        r"compute capability 9.0: tensorrt_rtx .* can build for 7.5, 8.0, 8.6, 8.9, 12.0, 12.1", "fp16", "9.0", profiles
    )
    fails("computes in float16, bf16 needs bfloat16; export the checkpoint with", "bf16", "8.9", profiles)
    fails("was not exported in int4; export the checkpoint with --precision int4", "int4", "8.9", profiles)
    fails("refuses a profile|built no engine", "fp16", "8.9", [(9, 4, 2)])
    (tmp_path / "decoder.onnx").write_bytes(b"\xff" * 100)
    with pytest.raises(GpuError, match=r"decoder.onnx: cannot be read; export the checkpoint again"):
        build_engine(tmp_path / "decoder.onnx", profiles, "fp16", "8.9")
