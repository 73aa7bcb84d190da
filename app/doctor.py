"""What `doctor` looks at: one function a thing, each with what was found and the remedy; nothing is changed."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path

from app.config import Config
from app.model_config import Role
from app.publishing.broker import parse_url
from app.sensors.discovery import DEV, USB
from models.errors import ModelError

_ANSWER_S = 3.0  # a broker on the network answers within it
_GPU_PROVIDERS = ("TensorrtExecutionProvider", "CUDAExecutionProvider")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing: whether it is there and works, and whether this configuration needs it."""

    name: str
    ok: bool
    found: str
    remedy: str
    needed: bool = False


def examine(config: Config, video: Path = DEV) -> list[Finding]:
    """Everything, in the order of the screen. Takes seconds: models are loaded, the broker is called."""
    return [
        *(model(config, role) for role in ("drafter", "target")),
        gpu(),
        tensorrt(),
        onnx_runtime(),
        event_cameras(),
        video_cameras(video),
        broker(config.mqtt.url),
    ]


def model(config: Config, role: Role) -> Finding:
    """Loads a model with the first configured runtime that can; every one that cannot is told."""
    from models.bundle import load_first
    from models.runtimes.shared import device_of

    told: list[str] = []
    runtimes = (config.models.drafter if role == "drafter" else config.models.target).runtimes
    remedy = f"mend it, or change models.{role}.runtime or models.{role}.device"
    try:
        loaded = load_first(
            config.model_path(role),
            role,
            runtimes,
            lambda name, following, why: told.append(f"not {name}: {why}"),
            device=config.models.device(role),
        )
    except (ModelError, ImportError) as error:
        return Finding(role, False, "; ".join([*told, str(error)]), remedy, needed=True)
    where = "" if (device := device_of(loaded)) == "cpu" else f", {device}"
    found = "; ".join([f"{loaded.name} runs on {loaded.runtime}{where}", *told])
    return Finding(role, True, found, remedy, needed=True)


def gpu() -> Finding:
    """The GPU and its driver, as CUDA sees them."""
    from models.runtimes.memory import gpu_memory
    from models.runtimes.nvidia import GpuError, find_gpu

    try:
        device = find_gpu()
    except GpuError as error:
        return _refused("GPU and driver", error)
    memory = f"{device.memory_bytes / 1e9:.0f} GB"
    if (there := gpu_memory()) is not None:
        memory += f" ({there[0] / 1e9:.0f} free)"
    found = f"{device.name}, compute capability {device.capability}, {memory}, driver for CUDA {device.driver_cuda}"
    return Finding("GPU and driver", True, found, "")


def tensorrt() -> Finding:
    """The TensorRT library, either of the two."""
    from models.runtimes.nvidia import GpuError, tensorrt_version

    try:
        return Finding("TensorRT", True, tensorrt_version(), "")
    except GpuError as error:
        return _refused("TensorRT", error)


def onnx_runtime() -> Finding:
    """Its version and what it can run on; what a wheel was built with is not yet what works here."""
    import onnxruntime

    providers = onnxruntime.get_available_providers()
    found = f"{onnxruntime.__version__}: {', '.join(name.removesuffix('ExecutionProvider') for name in providers)}"
    on_gpu = any(name in providers for name in _GPU_PROVIDERS)
    remedy = "CPU only; for a GPU swap the package (docs/develop.md)"
    return Finding("ONNX Runtime", on_gpu, found, remedy)


def event_cameras(usb: Path = USB) -> Finding:
    """Event cameras on USB, as dv-processing finds them."""
    from app.sensors import discovery

    try:
        names = discovery.event_cameras()
    except ImportError as error:
        return Finding("event cameras", False, f"dv-processing cannot be imported: {error}", "run `make setup`")
    if not names and (seen := discovery.seen_on_usb(usb)):
        remedy = "install the udev rules (`make install-service`), join the group plugdev, plug it in again"
        return Finding("event cameras", False, f"{seen} on USB that this user may not open", remedy)
    remedy = "plug one in; install the udev rules (`make install-service`); recordings need none"
    return Finding("event cameras", bool(names), ", ".join(names) or "none", remedy)


def video_cameras(folder: Path = DEV) -> Finding:
    """RGB cameras of the kernel (V4L2) that this user may open."""
    from app.sensors.discovery import video_devices

    devices = video_devices(folder)
    usable = [f"{Path(device.path).name} {device.name}".strip() for device in devices if device.usable]
    if devices and not usable:
        found, remedy = (
            f"{len(devices)}, none of which this user may open",
            "sudo usermod -aG video $USER; log in again",
        )
    else:
        found, remedy = ", ".join(usable) or "none", "plug one in; `v4l2-ctl --list-devices` tells what the kernel sees"
    return Finding("video cameras", bool(usable), found, remedy)


def broker(url: str) -> Finding:
    """Whether the configured broker takes a connection; user, password and TLS are for `run` to prove."""
    where = parse_url(url)
    remedy = "start it (sudo systemctl start mosquitto), or set mqtt.url; captions wait in the outbox meanwhile"
    try:
        socket.create_connection((where.host, where.port), _ANSWER_S).close()
    except OSError as error:
        return Finding("broker", False, f"{where.url}: {error.strerror or error}", remedy)
    return Finding("broker", True, f"{where.url} answers", remedy)


def _refused(name: str, error: ModelError) -> Finding:
    """An error's line, split into what is and what to do."""
    found, _, remedy = str(error).partition("; ")
    return Finding(name, False, found, remedy)
