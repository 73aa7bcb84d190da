"""The chart of a benchmark: time to caption beside the target alone and the floor, as PNG and for a terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

BAR = 48  # characters of the longest bar in a terminal
WIDTH, LEFT, RIGHT, ROW, TOP = 1000, 190, 150, 34, 64  # pixels
INK, GREY, FLOOR, BARS = "#202124", "#dadce0", "#c0504d", ("#9aa0a6", "#3b6fb6")


def terminal_chart(rows: dict[str, dict[str, Any]], floor_ms: float) -> Table:
    """A bar a strategy: p50, with `│` at the floor (the end of the target's prefill)."""
    longest = max(row["caption_ms"]["p50"] for row in rows.values())
    table = Table.grid(padding=(0, 1))
    for name, row in rows.items():
        ms = row["caption_ms"]["p50"]
        bar = Text("█" * round(BAR * ms / longest), style="dim" if name == "autoregressive" else "blue")
        bar.append(" " * (BAR - len(bar)))
        mark = min(BAR - 1, round(BAR * floor_ms / longest))
        bar = bar[:mark] + Text("│", style="red") + bar[mark + 1 :]
        table.add_row(name, bar, f"{ms:.1f} ms", f"× {row['ratio']:.2f}")
    table.add_row("", Text("│ end of the target's prefill: no verified caption is sooner", style="red"), "", "")
    return table


def write_chart(path: Path, rows: dict[str, dict[str, Any]], floor_ms: float, title: str) -> None:
    """The same as PNG, with p95 as a whisker. Raises OSError where the file cannot be written."""
    from PIL import Image, ImageDraw, ImageFont

    font, small = ImageFont.load_default(16), ImageFont.load_default(13)
    height = TOP + ROW * len(rows) + 48
    picture = Image.new("RGB", (WIDTH, height), "white")
    draw = ImageDraw.Draw(picture)
    longest = max(row["caption_ms"]["p95"] for row in rows.values())
    scale = (WIDTH - LEFT - RIGHT) / longest
    draw.text((16, 14), title, INK, font)
    for number, (name, row) in enumerate(rows.items()):
        y = TOP + number * ROW
        middle = y + ROW // 2
        p50, p95 = LEFT + row["caption_ms"]["p50"] * scale, LEFT + row["caption_ms"]["p95"] * scale
        draw.text((LEFT - 10, middle), name, INK, font, anchor="rm")
        draw.rectangle((LEFT, y + 6, p50, y + ROW - 6), BARS[name != "autoregressive"])
        draw.line((p50, middle, p95, middle), INK)
        draw.line((p95, middle - 5, p95, middle + 5), INK)
        label = f"{row['caption_ms']['p50']:.1f} ms, x {row['ratio']:.2f}"
        draw.text((p95 + 6, middle), label, INK, small, anchor="lm")
    bottom = TOP + ROW * len(rows)
    floor = LEFT + floor_ms * scale
    draw.line((floor, TOP - 8, floor, bottom), FLOOR, 2)
    draw.text((floor, TOP - 10), "end of the target's prefill", FLOOR, small, anchor="md")
    draw.text((LEFT, bottom + 14), "bar: p50; whisker: p95; x: ratio to the target alone, this run", INK, small)
    picture.save(path, "PNG", optimize=True)
