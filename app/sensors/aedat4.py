"""What the reader must know of the AEDAT4 container itself: where the file table is, and how to read without it.

An AEDAT4 file is a version line, a size-prefixed flatbuffer `IOHeader`, packets, and (when closed cleanly) a file
table whose position the header holds. dv-processing refuses a file whose header promises a table that is cut off or
damaged, but scans the packets of one that promises none. So such a file is read through a copy that promises none.
"""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

VERSION_LINE = b"#!AER-DAT4.0\r\n"
NO_TABLE = -1


def table_position(path: Path) -> tuple[int, int] | None:
    """(offset of the field in the file, its value: NO_TABLE or where the table starts); None for a header without it.

    Raises ValueError when the file is no AEDAT4 file or its header is damaged.
    """
    with path.open("rb") as file:
        if file.read(len(VERSION_LINE)) != VERSION_LINE:
            raise ValueError("not an AEDAT4 file")
        base = len(VERSION_LINE) + 4  # the header's size comes before it
        file.seek(len(VERSION_LINE))
        size_bytes = file.read(4)
        if len(size_bytes) < 4:
            raise ValueError("cut off inside the header")
        (size,) = struct.unpack("<i", size_bytes)
        if not 16 <= size <= 1 << 24:
            raise ValueError("the header is damaged")
        header = file.read(size)
    if len(header) < size:
        raise ValueError("cut off inside the header")
    try:  # flatbuffers: root table, its vtable, the vtable's second field (the first is the compression)
        (root,) = struct.unpack_from("<I", header, 0)
        vtable = root - struct.unpack_from("<i", header, root)[0]
        (vtable_size,) = struct.unpack_from("<H", header, vtable)
        (field,) = struct.unpack_from("<H", header, vtable + 6) if vtable_size >= 8 else (0,)
        if not field:
            return None
        (value,) = struct.unpack_from("<q", header, root + field)
    except struct.error as error:
        raise ValueError("the header is damaged") from error
    return base + root + field, value


def copy_without_table(path: Path, copy: Path) -> None:
    """Write `copy`: the packets of `path` under a header that promises no file table. Raises ValueError, OSError."""
    found = table_position(path)
    shutil.copyfile(path, copy)
    if found is None or found[1] == NO_TABLE:
        return
    offset, position = found
    with copy.open("r+b") as file:
        file.seek(offset)
        file.write(struct.pack("<q", NO_TABLE))
        if 0 < position < path.stat().st_size:
            file.truncate(position)  # a damaged table must not be scanned as a packet
