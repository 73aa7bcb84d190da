"""One model, ready to caption: networks, tokenizer, prompt and preprocessing of an exported folder behind one face."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.checkpoint import place, read_config
from models.errors import ModelError
from models.event_frames import render
from models.manifest import read_manifest
from models.preprocess import clip_pixels
from models.prompts import PROMPTS, QUESTION, Prompt, check_prompt
from models.runtimes.contract import Floats, WarmDecoder, WarmVision
from models.runtimes.devices import gpu_number, need_runtimes
from models.runtimes.fallback import FallbackDecoder, FallbackVision, Ladder
from models.stored import StoredTensor, stored_tensors
from models.tokenizer import Tokenizer, load_tokenizer

__all__ = ["ModelError", "Role", "RuntimeName", "VisionLanguageModel", "load_first", "load_model"]

Role = Literal["drafter", "target"]
RuntimeName = Literal["onnx", "onnx-cuda", "onnx-tensorrt", "torch", "tensorrt"]


@dataclass(frozen=True, slots=True)
class VisionLanguageModel:
    """A drafter or a target, and all it needs between a window's data and its text."""

    role: Role
    name: str
    demo: bool  # a small pair trained for the demo, not a published model
    runtime: RuntimeName
    vision: WarmVision
    decoder: WarmDecoder
    tokenizer: Tokenizer
    bos_id: int
    eos_id: int
    vocabulary: int  # ids that have an embedding; the two models of a pair may differ
    image_size: int
    frames: int  # images a window: event frames of a drafter, RGB frames of a target
    visual_tokens: int
    manifest: dict[str, Any]

    @property
    def frames_alone(self) -> bool:
        """Whether each image becomes visual tokens by itself, in a run of its own, whatever the others show.

        So it is with the Hugging Face port of Video-LLaVA; the original attends over time, EventGPT pools over images.
        """
        return bool(self.manifest["network"] == "video_llava" and self.visual_tokens % self.frames == 0)

    def prompt(self, question: str = QUESTION, max_new_tokens: int = 1) -> Prompt:
        """The model's official prompt.

        Raises ModelError when it and `max_new_tokens` exceed the cache, or the question has ids without an embedding.
        """
        prompt = PROMPTS[self.manifest["network"]](self.tokenizer, question, self.visual_tokens)
        check_prompt(prompt, self.tokenizer, self.vocabulary, {}, self.name)
        if len(prompt) + max_new_tokens > self.decoder.s_max:
            raise ModelError(
                f"{self.name}: a prompt of {len(prompt)} rows and {max_new_tokens} new tokens exceed the cache of "
                f"{self.decoder.s_max}; export with --s-max {len(prompt) + max_new_tokens} or ask for less"
            )
        return prompt

    def pixels_from_events(self, x: ArrayLike, y: ArrayLike, p: ArrayLike, resolution: tuple[int, int]) -> Floats:
        """Events in time order, on a sensor of (width, height), to pixels [frames, 3, S, S]."""
        return clip_pixels(render(x, y, p, self.frames, resolution=resolution), self.image_size)

    def pixels_from_frames(self, images: Sequence[NDArray[np.uint8]]) -> Floats:
        """RGB images, each uint8 [H, W, 3], to pixels [N, 3, S, S]; N may be a part of a window."""
        return clip_pixels(images, self.image_size)


def load_model(folder: Path, role: Role, runtime: RuntimeName = "onnx", max_new_tokens: int = 1) -> VisionLanguageModel:
    """Load an exported model folder and check it. The cache must hold the demo question's prompt and `max_new_tokens`.

    Raises ModelError, one line, for a missing or damaged file, a manifest that does not match, the wrong role,
    another checkpoint's tokenizer, and a cache that is too small.
    """
    return load_first(folder, role, [runtime], lambda *told: None, max_new_tokens)


def load_first(
    folder: Path,
    role: Role,
    runtimes: Sequence[RuntimeName],
    told: Callable[[str, str, str], None],
    max_new_tokens: int = 1,
    device: str = "auto",
) -> VisionLanguageModel:
    """`load_model` with the first runtime that can; `told` hears of each that cannot, of the next, and why.

    On a GPU, what runs out of memory later goes on in smaller passes or with the next runtime, and `told` hears of it.
    device: `auto`, `cpu`, or `cuda:N` for what runs on a GPU. Raises what the last one raises.
    """
    need_runtimes(device, runtimes)
    folder = Path(folder)
    if not folder.is_dir():
        raise ModelError(f"{folder}: no such folder; name the folder of an exported model")
    manifest = read_manifest(folder, role)
    if manifest["network"] not in PROMPTS:
        raise ModelError(f"{folder}: network {manifest['network']!r} is unknown; export the checkpoint again")
    embedding = _embedding(folder, manifest)
    tokenizer = load_tokenizer(folder)
    config = read_config(folder) if (folder / "config.json").is_file() else {}
    prompt = PROMPTS[manifest["network"]](tokenizer, QUESTION, manifest["visual_tokens"])
    check_prompt(prompt, tokenizer, embedding.shape[0], config, folder)

    def load(runtime: str) -> tuple[WarmVision, WarmDecoder]:
        return _LOADERS[runtime](folder, manifest, embedding, device)

    ladder = Ladder(load, runtimes, told, gpu_number(device))
    vision, decoder = ladder.parts
    if ladder.runtime != "onnx":
        vision, decoder = FallbackVision(ladder), FallbackDecoder(ladder)
    model = VisionLanguageModel(
        role=role,
        name=manifest["name"],
        demo=manifest["demo"],
        runtime=runtimes[runtimes.index(ladder.runtime)],
        vision=vision,
        decoder=decoder,
        tokenizer=tokenizer,
        bos_id=tokenizer.bos_id,
        eos_id=tokenizer.eos_id,
        vocabulary=embedding.shape[0],
        image_size=manifest["image_size"],
        frames=manifest["frames"],
        visual_tokens=manifest["visual_tokens"],
        manifest=manifest,
    )
    model.prompt(QUESTION, max_new_tokens)
    return model


def _embedding(folder: Path, manifest: dict[str, Any]) -> StoredTensor:
    file, tensor = manifest["embedding"].get("file"), manifest["embedding"].get("tensor")
    stored = stored_tensors(folder / str(file)).get(str(tensor))
    wanted = (manifest["decoder"].get("vocabulary"), manifest["decoder"].get("width"))
    if stored is None:
        raise ModelError(f"{place(folder / str(file))}: missing tensor {tensor}; export the checkpoint again")
    if stored.shape != wanted:
        raise ModelError(
            f"{place(stored.file)}: tensor {tensor} has shape {list(stored.shape)}, the manifest says {list(wanted)}; "
            "export the checkpoint again"
        )
    return stored


def _onnx(
    folder: Path, manifest: dict[str, Any], embedding: StoredTensor, device: str
) -> tuple[WarmVision, WarmDecoder]:
    from models.runtimes.onnx import DecoderSizes, OnnxDecoder, OnnxVision

    try:
        sizes = DecoderSizes(s_max=manifest["s_max"], **manifest["decoder"])
    except TypeError:
        raise ModelError(
            f"{folder}: the manifest's decoder sizes are incomplete; export the checkpoint again"
        ) from None
    if sizes.cache not in ("float32", "float16"):
        raise ModelError(
            f"{folder}: was exported in {sizes.cache}, for runtime: tensorrt; export with --precision fp32"
        )
    decoder = OnnxDecoder(folder, sizes, embedding)
    decoder.check_alignment()
    return OnnxVision(folder / "vision.onnx"), decoder


def _torch(
    folder: Path, manifest: dict[str, Any], embedding: StoredTensor, device: str
) -> tuple[WarmVision, WarmDecoder]:
    try:
        from models.runtimes.torch import load
    except ModuleNotFoundError as error:
        raise ModelError(f"{error.name} is not installed; pip install -e '.[torch]', or choose runtime: onnx") from None

    compute = str(manifest["precision"].get("compute", "float32"))
    return load(folder, manifest["role"], manifest["s_max"], compute, gpu=device != "cpu")


def _tensorrt(
    folder: Path, manifest: dict[str, Any], embedding: StoredTensor, device: str
) -> tuple[WarmVision, WarmDecoder]:
    from models.runtimes.tensorrt import load

    return load(folder, manifest, embedding, gpu_number(device) or 0)


def _onnx_gpu(runtime: str) -> _Loader:
    def load(
        folder: Path, manifest: dict[str, Any], embedding: StoredTensor, device: str
    ) -> tuple[WarmVision, WarmDecoder]:
        from models.runtimes.onnx_gpu import load

        return load(folder, manifest, embedding, runtime, gpu_number(device) or 0)

    return load


_Loader = Callable[[Path, dict[str, Any], StoredTensor, str], tuple[WarmVision, WarmDecoder]]
_LOADERS: dict[str, _Loader] = {
    "onnx": _onnx,
    "onnx-cuda": _onnx_gpu("onnx-cuda"),
    "onnx-tensorrt": _onnx_gpu("onnx-tensorrt"),
    "torch": _torch,
    "tensorrt": _tensorrt,
}
