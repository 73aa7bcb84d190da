"""What `replay` and `demo` share: play a recording through the captioner, show every caption, end with the table."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import structlog
from rich.console import Console

from app.commands.options import ResultConsole
from app.comparison import Comparison, target_alone
from app.config import Config
from app.demo_view import DemoView, save_picture
from app.pipeline import Sink
from app.report_table import report_json, report_table
from app.sensors.contract import RecordedSource, SourceInfo
from app.session import Outputs, caption_recording, load_captioner
from app.sinks import Remembering
from app.telemetry.summary import Report, Summary

log = structlog.get_logger(__name__)

PICTURED = 5  # captions in a picture


def play(
    config: Config,
    open_source: Callable[[], RecordedSource],
    outputs: Outputs,
    *,
    compare: bool = False,
    as_json: bool = False,
    console: Console | None = None,
    picture: Path | None = None,
) -> None:
    """Play a recording to its end; with `compare`, caption them again by the target alone; `picture`: an SVG of it.

    The figures are shown for whatever was captioned, also when the recording is torn or Ctrl-C ends it.
    """
    console, summary, remembered = console or ResultConsole(), Summary(), Remembering(PICTURED)
    source = open_source()
    _tell(source.notes)
    told = source.notes
    try:
        with Console(stderr=True).status("loading both models (the first time measures this machine) …"):
            captioner = load_captioner(config)
    except BaseException:
        asyncio.run(source.close())
        raise
    comparison: Comparison | None = None
    try:
        sinks: list[Sink] = [remembered] if compare else []
        if as_json:
            asyncio.run(caption_recording(config, source, captioner, outputs, summary, sinks))
        else:
            with DemoView(console, summary, _span_us(source.info)) as view:
                asyncio.run(caption_recording(config, source, captioner, outputs, summary, [*sinks, view]))
        _none_captioned(summary.report())
        if compare:
            with console.status("the recording once more, with the target alone …"):
                comparison = asyncio.run(target_alone(config, open_source(), captioner, remembered.said))
        if picture:
            save_picture(picture, remembered.captions, source.info.start_us or 0, summary.report(), comparison)
    finally:
        captioner.close()
        asyncio.run(source.close())  # where it did not come to playing it
        _tell([note for note in source.notes if note not in told])
        report = summary.report()
        if report.lost:
            log.info("lost", **report.lost)
        if as_json:
            print(json.dumps(report_json(report, comparison)))
        elif report.captions or report.dropped:
            console.print(report_table(report, comparison))


class NothingCaptioned(Exception):
    """Every window was dropped."""


def _none_captioned(report: Report) -> None:
    if report.dropped and not report.captions:
        reasons = ", ".join(f"{count} {reason}" for reason, count in report.dropped.items())
        remedy = "; the target needs frames: check --rgb-offset-ms" if "no_frames" in report.dropped else ""
        raise NothingCaptioned(f"no window was captioned: {reasons}{remedy}")


def _tell(notes: Iterable[str]) -> None:
    for note in notes:
        print(f"event-captioner: {note}", file=sys.stderr)


def _span_us(info: SourceInfo) -> tuple[int, int] | None:
    return None if info.start_us is None or info.end_us is None else (info.start_us, info.end_us)
