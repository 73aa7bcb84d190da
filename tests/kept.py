"""What takes long to make and changes with the sources alone: made once for all test processes, in pytest's cache."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import patch

ROOT = Path(__file__).parents[1]
DAY_S = 24 * 3600.0


def kept(name: str, make: Callable[[Path], object]) -> Path:
    """The folder that `make` writes when it is given its path; there for as long as no source of an export changes."""
    folder = ROOT / ".pytest_cache" / f"kept-{_digest()}"
    folder.mkdir(parents=True, exist_ok=True)
    os.utime(folder)
    _forget_the_old(folder.parent)
    out = folder / name
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another test process may be at it
        if not out.is_dir():
            unfinished = folder / f"{name}.unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            make(unfinished)
            unfinished.rename(out)
    return out


def _forget_the_old(cache: Path) -> None:
    """Drop what was made of sources that nobody has tested for a day."""
    for folder in cache.glob("kept-*"):
        with suppress(FileNotFoundError):  # another test process was first
            if time.time() - folder.stat().st_mtime > DAY_S:
                shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def traced_once() -> Iterator[None]:
    """Within it exports take graphs that were traced before: these hold no weights, so equal networks share them.

    Tracing is nearly all of an export's time. Whatever is taken is compared with torch, as every export is.
    """
    import onnx

    from export import graphs

    trace = graphs._export

    def export(module: Any, example: tuple[Any, ...], *names: Any) -> onnx.ModelProto:
        assert not list(module.buffers()), "its values would be in the graph, and are not in the key"
        parts = [(name, type(part), _settings(part)) for name, part in module.named_modules()]
        parameters = [(name, value.shape, value.dtype) for name, value in module.named_parameters()]
        key = hashlib.sha256(repr((parts, parameters, _shapes(example), names)).encode()).hexdigest()[:16]

        def make(folder: Path) -> None:
            folder.mkdir()
            onnx.save_model(trace(module, example, *names), folder / "graph.onnx")

        return onnx.load(kept(f"graph-{key}", make) / "graph.onnx")

    with patch.object(graphs, "_export", export):
        yield


def _settings(part: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(part).items() if not name.startswith("_")}


def _shapes(example: tuple[Any, ...]) -> list[Any]:
    return [_shapes(value) if isinstance(value, tuple) else (value.shape, value.dtype) for value in example]


@cache
def _digest() -> str:
    """Of the sources and of the tools."""
    sources = sorted([*ROOT.glob("models/*.py"), *ROOT.glob("export/*.py"), ROOT / "tests/models/tiny.py"])
    tools = " ".join(version(tool) for tool in ("torch", "onnx", "onnxscript", "onnx_ir", "onnxruntime", "tokenizers"))
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources) + tools.encode()).hexdigest()[:16]
