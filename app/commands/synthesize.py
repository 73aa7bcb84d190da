"""`synthesize OUT.aedat4`: a recording of the demo street, from a seed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.commands.options import JsonOption, finite

if TYPE_CHECKING:
    from rich.progress import Progress

    from app.sensors.contract import Item


def command(
    out: Annotated[Path, typer.Argument(metavar="OUT.aedat4", help="The recording to write.")],
    seed: Annotated[int, typer.Option(min=0, help="Another seed, another street.")] = 0,
    seconds: Annotated[float, typer.Option(min=0.1, max=3600, callback=finite, help="Its length.")] = 10.0,
    as_json: JsonOption = False,
) -> None:
    """Write a synthetic recording: events, colour frames and a resting IMU."""
    import json

    from rich.console import Console
    from rich.progress import Progress

    from app.sensors.synthetic import RESOLUTION, synthetic_items
    from app.sensors.writer import write_recording

    if out.suffix != ".aedat4":
        raise typer.BadParameter(f"{out}: a recording's name ends in .aedat4", param_hint="OUT.aedat4")
    with Progress(console=Console(stderr=True), transient=True) as progress:
        items = _watched(synthetic_items(seed, seconds), seconds, progress)
        events, frames = write_recording(out, items, RESOLUTION, f"SYNTHETIC_{seed}")
    if as_json:
        print(json.dumps({"path": str(out), "seed": seed, "seconds": seconds, "events": events, "frames": frames}))
    else:
        print(f"{out}: {seconds:g} s, {events:,} events, {frames:,} frames")


def _watched(items: Iterator[Item], seconds: float, progress: Progress) -> Iterator[Item]:
    """The same items, with the bar at their sensor time."""
    from app.sensors.contract import Events

    task = progress.add_task("synthesising", total=seconds * 1e6)
    start_us: int | None = None
    for item in items:
        now_us = int(item.t[-1]) if isinstance(item, Events) else item.t_us
        start_us = now_us if start_us is None else start_us
        progress.update(task, completed=now_us - start_us)
        yield item
