"""What the reader process writes to its pipe: messages of one kind byte, a uint32 length and the payload.

I  JSON: what the recording is (first, once)          X  JSON {"error"}: it cannot be read (any further)
E  events: t int64[n], x int16[n], y int16[n], p uint8[n]
F  a frame: int64 t_us, uint32 height, width, channels, then uint8 [H, W, C], RGB or grey
Z  JSON {"ended_early", "dropped"}: the end
"""

from __future__ import annotations

import struct

HEADER = struct.Struct("<cI")
FRAME = struct.Struct("<qIII")
