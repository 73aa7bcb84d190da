"""The text at the head of every AEDAT file: lines of `#…`, the first of which names the version."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import BinaryIO

MAX_HEADER_BYTES = 4 << 20  # jAER writes its preferences there, as XML
MAX_LINE_BYTES = 1 << 16
MAX_LINES = 20_000

SENSORS = {"240": (240, 180), "346": (346, 260), "640": (640, 480), "208": (208, 192), "128": (128, 128)}


@dataclass(frozen=True, slots=True)
class Header:
    version: str  # "2.0", "3.1", …; "1.0" where there is no version line
    lines: tuple[str, ...]  # without the # and the line end
    size: int  # bytes; where the data begin


def read_header(file: BinaryIO) -> Header:
    """The header of a file that is at its start; leaves it at the data. Raises ValueError.

    Before 3.1 nothing says where the header ends but the first line that is none; jAER's closing line is heeded.
    """
    lines: list[str] = []
    while len(lines) < MAX_LINES and file.tell() < MAX_HEADER_BYTES:
        at = file.tell()
        line = file.readline(MAX_LINE_BYTES)
        text = line.rstrip(b"\r\n")
        if not line.startswith(b"#") or not line.endswith(b"\n") or any(c < 32 and c != 9 for c in text):
            file.seek(at)
            break
        lines.append(text[1:].decode("utf-8", "replace"))
        if text == b"#!END-HEADER" or text.lower() == b"# end of ascii header":
            break
    else:
        raise ValueError(f"its header is longer than {MAX_LINES:,} lines or {MAX_HEADER_BYTES >> 20} MiB")
    found = re.match(r"!AER-DAT(\d\.\d)", lines[0]) if lines else None
    return Header(found[1] if found else "1.0", tuple(lines), file.tell())


def davis_resolution(name: str) -> tuple[int, int] | None:
    """(width, height) of the DAVIS (or DVS128, DVXplorer) that is named; None where it is none of them."""
    if "dvxplorer" in name.lower():
        return (640, 480)
    found = re.search(r"(?:davi?s?|dvs)[^0-9]{0,8}(\d{3})", name, re.IGNORECASE)
    return SENSORS.get(found[1]) if found else None
