"""How one caption looks on a terminal: its words by origin, where its milliseconds went, a timeline of both models."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby, pairwise

from rich.text import Text

from app.records import Caption, Dropped, Token
from app.telemetry.latency import latency_ms
from app.telemetry.spans import Span
from app.windows import Window

BAR_CELLS = 64
STYLES = {"accepted": "green", "rejected": "red dim strike", "target": "bold cyan"}
PLAIN = {"accepted": "", "rejected": "[-{}-]", "target": "{{+{}+}}"}  # without colour: as `git diff --word-diff`
STAGE_STYLES = {"encode": "blue", "prefill": "magenta", "decode": "green", "verify": "yellow"}
LANES = ("drafter", "target")


def legend(colour: bool) -> Text:
    """What the looks of words and bars mean."""
    words = (("drafted and accepted", "accepted"), ("draft rejected", "rejected"), ("the target's own", "target"))
    text = Text("words: ")
    for n, (meaning, origin) in enumerate(words):
        text.append(" · " if n else "").append_text(_run(meaning, origin, colour))
    text.append("   bars: ")
    for n, stage in enumerate(STAGE_STYLES):
        text.append(" · " if n else "").append_text(_cell(stage, colour)).append(f" {stage}")
    return text.append(" · │ window closed")


def caption_block(caption: Caption, colour: bool, width: int = 120, origin_us: int = 0) -> Text:
    """Four lines: the window, counted from `origin_us`, the words, and the two lanes with their stages."""
    window, latency = caption.window, latency_ms(caption)
    head = (
        f"{_when(window, origin_us)}   {len(window.events):,} events, {sum(not f.repeat for f in window.frames)} frames"
    )
    block = Text().append(head, style="dim")
    block.append(f"   verified +{latency['sensor_to_caption']:.0f} ms\n", style="bold")
    cells = max(20, min(BAR_CELLS, width - 76))  # beside the names and the figures
    block.append("      ").append_text(words(caption.tokens, caption.text, colour)).append("\n")
    for lane, bar in zip(LANES, timeline(caption, colour, cells), strict=True):
        block.append(f"      {lane:8}").append_text(bar).append(f" {_stages(caption, lane)}\n", style="dim")
    return block


def dropped_line(dropped: Dropped, origin_us: int = 0) -> Text:
    """One line for a window without a caption."""
    return Text(f"{_when(dropped.window, origin_us)}   dropped: {dropped.reason}\n", style="red")


def _when(window: Window, origin_us: int) -> str:
    start_s, end_s = ((t_us - origin_us) / 1e6 for t_us in (window.start_us, window.end_us))
    return f"{window.index:4d}  {start_s:.2f}-{end_s:.2f} s"


def words(tokens: Sequence[Token], text: str, colour: bool) -> Text:
    """The caption with its rejected drafts in place; the bare text where no tokens are known."""
    line = Text()
    for origin, run in groupby(tokens, key=lambda token: token.origin):
        line.append_text(_run("".join(token.text for token in run), origin, colour))
    return line if tokens else Text(text)


def timeline(caption: Caption, colour: bool, cells: int = BAR_CELLS) -> list[Text]:
    """One bar a lane, on one scale from the first span (or the window's close) to the last; │ marks the close.

    It goes back no more than twice as far as it goes on: of frames prefilled long before the close the end is shown.
    """
    spans = [span for span in caption.spans if span.lane in LANES]
    close = caption.window.closed_ns
    last = max([span.end_ns for span in spans] + [close + 1])
    first = max(min([span.start_ns for span in spans] + [close]), close - 2 * (last - close))
    edges = [first + (last - first) * n / cells for n in range(cells + 1)]
    bars = []
    for lane in LANES:
        bar = _bar([_busiest(spans, lane, *edge) for edge in pairwise(edges)], colour)
        mark = int((close - first) / (last - first) * cells)
        bars.append(Text.assemble(bar[:mark], ("│", "bold"), bar[mark:]))
    return bars


def _busiest(spans: Sequence[Span], lane: str, start_ns: float, end_ns: float) -> str:
    """The stage that a lane spent most of an interval in; empty where it idled."""
    shares: dict[str, float] = {}
    for span in spans:
        shared = min(span.end_ns, end_ns) - max(span.start_ns, start_ns)
        if span.lane == lane and shared > 0:
            shares[span.name] = shares.get(span.name, 0.0) + shared
    return max(shares, key=lambda name: shares[name], default="")


def _bar(stages: Sequence[str], colour: bool) -> Text:
    bar = Text()
    for stage, run in groupby(stages):
        cells = len(list(run))
        bar.append_text(_cell(stage, colour, cells) if stage else Text("·" * cells, style="dim"))
    return bar


def _cell(stage: str, colour: bool, count: int = 1) -> Text:
    return Text("█" * count, style=STAGE_STYLES.get(stage, "white")) if colour else Text(stage[:1] * count)


def _run(text: str, origin: str, colour: bool) -> Text:
    """Tokens of one origin; the space before them stays outside what marks them."""
    body = text.lstrip(" ")
    lead = text[: len(text) - len(body)]
    if colour:
        return Text(lead).append(body, style=STYLES.get(origin, ""))
    return Text(lead + (PLAIN[origin].format(body) if PLAIN.get(origin) else body))


def _stages(caption: Caption, lane: str) -> str:
    """Milliseconds of each stage of a lane, in the order they began."""
    spent: dict[str, float] = {}
    for span in sorted((span for span in caption.spans if span.lane == lane), key=lambda span: span.start_ns):
        spent[span.name] = spent.get(span.name, 0.0) + span.ms
    return " · ".join(f"{name} {ms:.1f}" for name, ms in spent.items()) + (" ms" if spent else "idle")
