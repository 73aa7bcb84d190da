"""The live view of a demo or a replay: each caption as it is verified, counters below; plain lines when piped."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from app.caption_block import caption_block, dropped_line, legend
from app.comparison import Comparison
from app.records import Caption, Dropped
from app.report_table import report_table
from app.telemetry.summary import Report, Summary
from app.windows import Window

PICTURE_WIDTH = 132


class DemoView:
    """A sink of the pipeline that draws. Its methods are called on the event loop and only format text.

    `span_us` is the sensor time of the whole recording, for the progress figure; None for an endless source.
    """

    def __init__(self, console: Console, summary: Summary, span_us: tuple[int, int] | None = None) -> None:
        self._console = console
        self._summary = summary
        self._span_us = span_us
        self._origin_us = span_us[0] if span_us else 0
        self._colour = console.is_terminal and not console.no_color
        self._width = console.width if console.is_terminal else 140  # a pipe has no width to fit into
        self._draft = Text("")
        self._end_us: int | None = None
        self._live: Live | None = None

    def __enter__(self) -> Self:
        self._console.print(legend(self._colour), soft_wrap=True)
        self._console.print()
        if self._console.is_terminal:
            self._live = Live(self._footer(), console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._live:
            self._live.stop()

    def on_caption(self, caption: Caption) -> None:
        self._draft = Text("")
        self._end_us = caption.window.end_us
        self._show(caption_block(caption, self._colour, self._width, self._origin_us))

    def on_dropped(self, dropped: Dropped) -> None:
        self._end_us = dropped.window.end_us
        self._show(dropped_line(dropped, self._origin_us))

    def on_draft(self, window: Window, text: str) -> None:
        """The unverified draft lives in the footer until its caption comes."""
        if self._live:
            self._draft = Text(f"draft of window {window.index}: {text}", style="dim italic", no_wrap=True)
            self._live.update(self._footer(), refresh=True)

    def _show(self, block: Text) -> None:
        self._console.print(block, soft_wrap=not self._live)
        if self._live:
            self._live.update(self._footer(), refresh=True)

    def _footer(self) -> RenderableType:
        report = self._summary.report()
        parts = [f"{report.captions} captions", f"{sum(report.dropped.values())} dropped"]
        if report.alpha is not None:
            parts.append(f"α {report.alpha:.2f}")
        if report.accepted_hidden_tokens_mean is not None:
            parts.append(f"{report.accepted_hidden_tokens_mean:.1f} accepted hidden tokens a caption")
        if "sensor_to_caption" in report.latency_ms:
            parts.append(f"sensor to caption {report.latency_ms['sensor_to_caption'].p50:.0f} ms at p50")
        if self._span_us and self._end_us is not None:
            start, end = self._span_us
            parts.append(f"{(self._end_us - start) / 1e6:.0f} of {(end - start) / 1e6:.0f} s")
        return Group(self._draft, Text(" · ".join(parts), style="reverse"))


def save_picture(
    path: Path, captions: Sequence[Caption], origin_us: int, report: Report, comparison: Comparison | None
) -> None:
    """What a demo shows, as an SVG: a few captions and the table. Raises OSError."""
    with open(os.devnull, "w") as nowhere:
        console = Console(file=nowhere, record=True, force_terminal=True, width=PICTURE_WIDTH)
        console.print(legend(colour=True))
        console.print()
        for caption in captions:
            console.print(caption_block(caption, True, PICTURE_WIDTH, origin_us))
        console.print(report_table(report, comparison))
        # the stock template would fetch its font from elsewhere
        template = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
        console.save_svg(str(path), title="make demo", code_format=template)
