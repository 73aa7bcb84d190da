"""What `simulate` prints."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from app.simulation.devices import ASSUMPTIONS, Device
from app.simulation.inputs import StepTimes
from app.simulation.predict import Prediction
from app.simulation.validation import Validation

MODEL = "model, not measured"


def print_validation(found: Validation, predictions: Sequence[Prediction], console: Console) -> None:
    """This machine: predicted beside measured."""
    console.print(
        f"[bold]{found.machine}[/], {found.cores} cores, {found.windows} windows, α {found.alpha:.3f}, "
        f"{found.tokens:.0f} tokens a caption, c = {found.step_times.cost_ratio:.2f}; {found.when}"
    )
    table = Table(title="time to caption, ms at p50, guard off: the cost model against this machine")
    for heading in ("strategy", "placement", "predicted", "measured", "error"):
        table.add_column(heading, justify="left" if heading in ("strategy", "placement") else "right")
    checked = {row.strategy: row for row in found.rows}
    for prediction in predictions:
        row = checked.get(prediction.strategy)
        placement = (row.placement if row else prediction.placement) or "–"
        if row is None:
            table.add_row(prediction.strategy, placement, f"{prediction.p50_ms:.1f}", f"[dim]{MODEL}[/]", "–")
        else:
            measured = f"{row.predicted_ms:.1f}", f"{row.measured_ms:.1f}", f"{row.error:+.0%}"
            table.add_row(row.strategy, placement, *measured)
    console.print(table)
    console.print(f"largest error: {found.worst:.0%}")


def print_device(
    device: Device,
    count: int,
    times: StepTimes,
    columns: Sequence[tuple[str, Sequence[Prediction]]],
    found: Validation | None,
    console: Console,
) -> None:
    """A device that we do not have; `columns`: (heading, predictions) for each α."""
    what = device.name if count == 1 else f"{count} × {device.name}, the target on {max(1, count - 1)}"
    rates = f"{device.bandwidth / 1e9:.0f} GB/s, {device.flops / 1e12:.1f} TFLOP/s in 16 bits, dense"
    console.print(f"[bold]{what}[/]: {rates}")
    console.print(
        f"target: encode {times.target_encode_ms:.0f} ms, prefill {times.target_prefill_ms:.0f} ms, "
        f"step {times.target_step_ms:.1f} ms; drafter: {times.drafter_encode_ms:.0f}, {times.drafter_prefill_ms:.0f}, "
        f"{times.drafter_step_ms:.1f} ms; c = {times.cost_ratio:.2f}"
    )
    table = Table(
        title="time to caption, ms at p50 (÷ autoregressive); *: does not pay, the guard takes the target alone"
    )
    table.add_column("strategy", no_wrap=True)
    for heading, _ in columns:
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("error here", justify="right")
    table.add_column("")
    for row in zip(*(predictions for _, predictions in columns), strict=True):
        error = found.error_of(row[0].strategy) if found else None
        table.add_row(
            _name(row[0]),
            *(_cell(prediction, named=prediction.placement != row[0].placement) for prediction in row),
            "–" if error is None else f"{error:+.0%}",
            f"[dim]{MODEL}[/]",
        )
    console.print(table)
    if found:
        console.print(
            f"error here: predicted ÷ measured − 1 on {found.machine} ({found.cores} cores, {found.when}, "
            f"{found.windows} windows); the schedules are checked by it, this device's step times are not"
        )
    console.print(f"source: {device.source}")
    for assumption in ASSUMPTIONS:
        console.print(f"assumed: {assumption}")


def _name(prediction: Prediction) -> str:
    return prediction.strategy + (f", {prediction.placement}" if prediction.placement else "")


def _cell(prediction: Prediction, *, named: bool) -> str:
    mark = " " if prediction.pays or prediction.strategy == "autoregressive" else "*"
    where = f" {prediction.placement}" if named else ""
    return f"{prediction.p50_ms:.0f} ({prediction.p50_ms / prediction.alone_ms:.2f}){mark}{where}"
