"""What is said where a GPU, its driver, TensorRT or cuda-python are missing: one line each, never a traceback."""

from pathlib import Path

import pytest

from models.bundle import load_first, load_model
from models.errors import ModelError
from models.runtimes.nvidia import GpuError, OutOfGpuMemory, check, driver_too_old, find_gpu, need_precision, refusal
from models.runtimes.tensorrt import choose_profile
from tests.models.tiny import make_model


def has_gpu() -> bool:
    try:
        find_gpu()
    except GpuError:
        return False
    return True


without_gpu = pytest.mark.skipif(has_gpu(), reason="this machine has an NVIDIA GPU")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("nvidia") / "target", "target")


@without_gpu
def test_tensorrt_without_what_it_needs_is_one_line(folder: Path) -> None:
    with pytest.raises(
        GpuError, match=r"TensorRT is not installed|cuda-python is not|no NVIDIA (driver|GPU)"
    ) as caught:
        load_model(folder, "target", "tensorrt")
    assert "\n" not in str(caught.value)
    assert "pip install" in str(caught.value) or "runtime: onnx" in str(caught.value)


@without_gpu
def test_the_next_runtime_of_the_list_is_taken_and_told(folder: Path) -> None:
    told: list[tuple[str, str, str]] = []
    model = load_first(folder, "target", ["tensorrt", "onnx"], lambda *line: told.append(line))
    assert model.runtime == "onnx"
    ((runtime, following, reason),) = told
    assert (runtime, following) == ("tensorrt", "onnx")
    assert "\n" not in reason
    with pytest.raises(GpuError):
        load_first(folder, "target", ["onnx", "tensorrt"][1:], lambda *line: told.append(line))  # type: ignore[arg-type]
    assert len(told) == 1


def test_statuses_become_lines() -> None:
    assert check((0, 7), "x") == 7
    assert check((0,), "x") == ()
    assert check((0, 1, 2), "x") == (1, 2)
    with pytest.raises(OutOfGpuMemory, match=r"key/value cache: the GPU's memory is full; .* takes? a smaller|smaller"):
        check((2, None), "key/value cache")
    with pytest.raises(GpuError, match="GPU: no NVIDIA GPU; choose runtime: onnx"):
        check((100, None), "GPU")
    with pytest.raises(GpuError, match="GPU pass: CUDA error 700"):
        check((700,), "GPU pass")
    assert driver_too_old("GPU", 12020, 13000) == (
        "GPU: the NVIDIA driver is too old: it supports CUDA 12.2, 13.0 is needed; update the driver"
    )


def test_tensorrts_own_words_tell_a_full_gpu_from_the_rest() -> None:
    for said in ("Error Code 2: OutOfMemory (Requested size was 1)", "cudaErrorMemoryAllocation\n out of memory"):
        assert isinstance(refusal("decoder.engine: no context", said, "export again"), OutOfGpuMemory)
    other = refusal("decoder.engine: no context", "", "export again")
    assert not isinstance(other, OutOfGpuMemory)
    assert str(other) == "decoder.engine: no context (it does not say why); export again"


def test_a_precision_that_the_gpu_lacks_is_refused() -> None:
    for precision, capability in (("fp8", "8.9"), ("fp8", "9.0"), ("fp8", "12.0"), ("bf16", "8.0"), ("int4", "7.5")):
        need_precision(precision, capability)
    with pytest.raises(GpuError, match=r"compute capability 8.6: has no fp8, which begins with 8.9; export with"):
        need_precision("fp8", "8.6")
    with pytest.raises(GpuError, match=r"compute capability 7.5: has no bf16, which begins with 8.0"):
        need_precision("bf16", "7.5")
    with pytest.raises(GpuError, match=r"compute capability 'ampere': is no number like 8.9"):
        need_precision("fp8", "ampere")


def test_the_narrowest_profile_is_taken() -> None:
    profiles = [[1, 80, 160], [1, 1, 1], [2, 28, 32]]
    assert [choose_profile(profiles, tokens) for tokens in (1, 2, 32, 33, 160)] == [1, 2, 2, 0, 0]
    with pytest.raises(ModelError, match="no profile for 161 tokens; build the engines again with a larger --chunk"):
        choose_profile(profiles, 161)
