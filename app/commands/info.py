"""`info RECORDING`: what is in it, counted by reading all of it."""

from __future__ import annotations

from app.commands.options import JsonOption, RecordingArgument


def command(recording: RecordingArgument, as_json: JsonOption = False) -> None:
    """Show what a recording holds: streams, time span, counts, damage."""
    import json
    from dataclasses import asdict

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from app.sensors.formats import describe

    info, notes = describe(recording)
    figures = {**asdict(info), "notes": notes, "duration_us": info.duration_us, "event_rate": info.event_rate}
    if as_json:
        print(json.dumps(figures))
        return
    frames = f"{info.frames:,}"
    if info.frame_size:
        frames += f" of {info.frame_size[0]} × {info.frame_size[1]}, {'grey' if info.grey else 'colour'}"
    table = Table(show_header=False, title=Text(str(recording)), title_justify="left")
    rows = {
        "camera": info.camera or "unnamed",
        "streams": ", ".join(info.streams),
        "event sensor": f"{info.resolution[0]} × {info.resolution[1]}",
        "time": f"{info.duration_us / 1e6:.3f} s, from {info.start_us:,} to {info.end_us:,} µs",
        "events": f"{info.events:,} ({info.event_rate:,.0f} a second)",
        "frames": frames,
        "IMU samples": f"{info.imu:,}",
        "triggers": f"{info.triggers:,}",
        "damage": info.damage or "none",
    }
    if info.dropped_events:
        rows["unusable events"] = f"{info.dropped_events:,} (outside the sensor or out of time order)"
    if notes:
        rows["notes"] = "\n".join(notes)
    for name, value in rows.items():
        table.add_row(name, Text(value))  # a file's own words are no markup
    Console().print(table, highlight=False)
