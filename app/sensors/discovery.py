"""Which cameras this machine has: iniVation's on USB, and the kernel's (V4L2)."""

from __future__ import annotations

import fcntl
import os
import struct
from dataclasses import dataclass
from pathlib import Path

DEV, USB = Path("/dev"), Path("/sys/bus/usb/devices")
INIVATION_VENDOR = "152a"
QUERY_CAPABILITIES = 0x80685600  # VIDIOC_QUERYCAP
CAPABILITIES = struct.Struct("16s32s32sIII12x")  # driver, card, bus, version, of the device, of this node
CAPTURE = 0x1 | 0x1000  # V4L2_CAP_VIDEO_CAPTURE, …_MPLANE
NODE_CAPABILITIES = 0x80000000  # V4L2_CAP_DEVICE_CAPS: the last field is filled in


@dataclass(frozen=True, slots=True)
class VideoDevice:
    """A node that gives video. `name` is the driver's, empty where it tells none; `usable`: this user may open it."""

    path: str
    name: str
    usable: bool


def event_cameras() -> list[str]:
    """iniVation cameras as dv-processing finds them, by the names that the configuration takes. Raises ImportError."""
    from app.sensors.inivation import discover

    return discover()


def seen_on_usb(usb: Path = USB) -> int:
    """iniVation devices that the kernel sees; where dv-processing finds none of them, this user may not open them."""
    return sum(_text(vendor) == INIVATION_VENDOR for vendor in usb.glob("*/idVendor"))


def video_devices(folder: Path = DEV) -> list[VideoDevice]:
    """The nodes that give video, in the order of their numbers; a camera's other nodes (metadata) are left out."""
    nodes = sorted(folder.glob("video[0-9]*"), key=lambda node: (len(node.name), node.name))
    return [device for node in nodes if (device := _video_device(node)) is not None]


def _video_device(node: Path) -> VideoDevice | None:
    try:
        handle = os.open(node, os.O_RDWR | os.O_NONBLOCK)
    except OSError:
        return VideoDevice(str(node), "", usable=False)
    try:
        answer = fcntl.ioctl(handle, QUERY_CAPABILITIES, bytes(CAPABILITIES.size))
    except OSError:
        return VideoDevice(str(node), "", usable=True)
    finally:
        os.close(handle)
    _, card, _, _, device, this_node = CAPABILITIES.unpack(answer)
    if not (this_node if device & NODE_CAPABILITIES else device) & CAPTURE:
        return None
    return VideoDevice(str(node), card.rstrip(b"\0").decode(errors="replace"), usable=True)


def _text(file: Path) -> str:
    try:
        return file.read_text().strip().lower()
    except OSError:
        return ""
