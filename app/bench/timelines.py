"""Timeline pictures from recorded spans: one SVG a strategy, drawn from a caption that was really made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np

from app.bench.lanes import Lane
from app.records import Caption
from app.telemetry.spans import Span

COLOURS = {
    "preprocess": ("#9aa0a6", "preprocess"),
    "encode": ("#7b61c4", "encode"),
    "prefill": ("#3b6fb6", "prefill"),
    "decode": ("#e0a030", "decode, draft step"),
    "verify": ("#2e9e6b", "verify"),
}
OTHER = "#c0504d"
WIDTH, LEFT, RIGHT, ROW, GAP, TOP = 960, 74, 16, 26, 8, 46  # pixels


def write_timelines(lanes: Sequence[Lane], folder: Path) -> list[Path]:
    """`folder`/NAME.svg for each lane, all on one time scale: the caption whose time is the lane's median."""
    folder.mkdir(parents=True, exist_ok=True)
    chosen = [(lane, _median(lane)) for lane in lanes]
    end_ms = max((caption.finished_ns - caption.started_ns) / 1e6 for _, caption in chosen)
    begin_ms = min(min(_since(caption, span.start_ns) for span in caption.spans) for _, caption in chosen)
    written = []
    for lane, caption in chosen:
        path = folder / f"{lane.name}.svg"
        path.write_text(timeline(lane.name, caption, begin_ms, end_ms), encoding="utf-8")
        written.append(path)
    return written


def _median(lane: Lane) -> Caption:
    order = np.argsort(lane.ms, kind="stable")
    return lane.captions[int(order[(len(order) - 1) // 2])]


def _since(caption: Caption, instant_ns: int) -> float:
    """Milliseconds from the closed window."""
    return (instant_ns - caption.started_ns) / 1e6


def timeline(title: str, caption: Caption, begin_ms: float, end_ms: float) -> str:
    """One caption as SVG; 0 ms is the instant at which its window closed."""
    scale = (WIDTH - LEFT - RIGHT) / ((end_ms - begin_ms) or 1.0)
    targets = {span.lane for span in caption.spans if span.lane.startswith("target")}
    rows = (*sorted(targets), "drafter", "host")
    bottom = TOP + len(rows) * (ROW + GAP)
    parts = [_heading(title, caption)]
    for number, row in enumerate(rows):
        y = TOP + number * (ROW + GAP)
        parts.append(f'<text x="{LEFT - 8}" y="{y + ROW * 0.68:.1f}" text-anchor="end">{row}</text>')
        parts.append(f'<rect x="{LEFT}" y="{y}" width="{WIDTH - LEFT - RIGHT}" height="{ROW}" fill="#f1f3f4"/>')
        for span in caption.spans:
            if span.lane == row:
                parts.append(_bar(span, LEFT + (_since(caption, span.start_ns) - begin_ms) * scale, y, scale))
    total_ms = _since(caption, caption.finished_ns)
    for instant, label in ((0.0, "window closed"), (total_ms, f"verified caption, {total_ms:.1f} ms")):
        parts.append(_mark(LEFT + (instant - begin_ms) * scale, bottom, label))
    parts.append(_ticks(begin_ms, end_ms, scale, bottom))
    parts.append(_legend(bottom + 46))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + 62}" '
        f'font-family="sans-serif" font-size="12" fill="#202124">\n<rect width="100%" height="100%" fill="#ffffff"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _heading(title: str, caption: Caption) -> str:
    stats = caption.stats
    where = f", draft: {stats.placement}" if stats.placement else ""
    drafts = f"; {stats.num_accepted_draft_tokens} of {stats.num_draft_tokens} drafts accepted"
    detail = f"{stats.tokens} tokens in {stats.num_spec_steps} passes of the target"
    return (
        f'<text x="{LEFT}" y="17" font-size="14" font-weight="bold">{escape(title)}</text>\n'
        f'<text x="{WIDTH - RIGHT}" y="17" text-anchor="end">{detail}'
        f"{drafts if stats.num_draft_tokens else ''}{where}</text>"
    )


def _bar(span: Span, x: float, y: float, scale: float) -> str:
    colour = COLOURS.get(span.name, (OTHER, ""))[0]
    width = max(0.6, span.ms * scale)
    detail = ", ".join(f"{key} {value}" for key, value in span.detail.items())
    tip = f"{span.name} {span.ms:.2f} ms" + (f" ({detail})" if detail else "")
    return (
        f'<rect x="{x:.2f}" y="{y}" width="{width:.2f}" height="{ROW}" fill="{colour}" stroke="#ffffff" '
        f'stroke-width="0.4"><title>{escape(tip)}</title></rect>'
    )


def _mark(x: float, bottom: int, label: str) -> str:
    anchor = "end" if x > WIDTH * 0.7 else "start"
    shift = -4 if anchor == "end" else 4
    return (
        f'<line x1="{x:.1f}" y1="{TOP - 6}" x2="{x:.1f}" y2="{bottom}" stroke="#202124" stroke-dasharray="3 2"/>'
        f'<text x="{x + shift:.1f}" y="{TOP - 10}" text-anchor="{anchor}" font-size="11">{escape(label)}</text>'
    )


def _ticks(begin_ms: float, end_ms: float, scale: float, bottom: int) -> str:
    step = next(s for s in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 10_000) if (end_ms - begin_ms) / s <= 14)
    first = int(np.ceil(begin_ms / step)) * step
    parts = []
    for ms in range(first, int(end_ms) + 1, step):
        x = LEFT + (ms - begin_ms) * scale
        parts.append(f'<line x1="{x:.1f}" y1="{bottom}" x2="{x:.1f}" y2="{bottom + 4}" stroke="#5f6368"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 17}" text-anchor="middle" font-size="10">{ms}</text>')
    parts.append(f'<text x="{LEFT - 8}" y="{bottom + 17}" text-anchor="end" font-size="10">ms</text>')
    return "".join(parts)


def _legend(y: int) -> str:
    parts, x = [], LEFT
    for colour, label in COLOURS.values():
        parts.append(f'<rect x="{x}" y="{y - 10}" width="11" height="11" fill="{colour}"/>')
        parts.append(f'<text x="{x + 16}" y="{y}" font-size="11">{label}</text>')
        x += 40 + 7 * len(label)
    return "".join(parts)
