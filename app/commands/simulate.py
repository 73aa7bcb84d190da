"""`simulate`: what each strategy would take, by the cost model, here and on devices that we do not have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.commands.options import ConfigOption, JsonOption

if TYPE_CHECKING:
    from app.simulation.devices import Device
    from app.simulation.inputs import StepTimes
    from app.simulation.predict import Prediction
    from app.simulation.validation import Validation

CASES = 200  # simulated captions a cell of the table


def command(
    config: ConfigOption = None,
    device: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="jetson-orin-64gb, rtx-4090, h100, h200; 2xh200 is two. Left out: here."),
    ] = None,
    alpha: Annotated[
        str, typer.Option(metavar="A,B", help="Acceptance of a draft token, 0 to 1: a column each.")
    ] = "0.5,0.7,0.9",
    tokens: Annotated[int, typer.Option(min=1, max=1024, help="Tokens of a caption, end-of-sequence included.")] = 40,
    repeat: Annotated[
        float, typer.Option(min=0, max=1, help="Share of windows whose caption is the previous one's (history).")
    ] = 0.0,
    drafter_precision: Annotated[str, typer.Option(help="16bit, int8 or int4.")] = "int4",
    target_precision: Annotated[str, typer.Option(help="16bit, int8 or int4.")] = "16bit",
    drafter_prompt: Annotated[
        int | None, typer.Option(min=1, max=100_000, help="Rows of the drafter's prompt. Left out: EventGPT's.")
    ] = None,
    target_prompt: Annotated[
        int | None, typer.Option(min=1, max=100_000, help="Rows of the target's prompt. Left out: Video-LLaVA's.")
    ] = None,
    times: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Step times as `--json` prints them, instead of the device's.")
    ] = None,
    windows: Annotated[int, typer.Option(min=2, max=1000, help="Windows of a validation on this machine.")] = 12,
    validate: Annotated[
        bool, typer.Option("--validate", help="Measure the model's error anew, even where the last one is kept.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Predict each strategy's time to caption; without a device, check the prediction against this machine."""
    from app.commands.options import TableConsole, need_torch

    need_torch("simulate")  # the shapes of the 7B pair come with their networks
    from app.simulation.report import print_device, print_validation

    if device is None:
        if times is not None:
            raise typer.BadParameter("step times belong to a --device; name the one they are of", param_hint="--times")
        found, predictions = _here(config, windows)
        if as_json:
            print(json.dumps({"validation": found.as_json(), "predictions": [_row(p) for p in predictions]}, indent=2))
        else:
            print_validation(found, predictions, TableConsole())
        return
    alphas = _alphas(alpha)
    chosen, count, step_times = _device(
        device, times, tokens, drafter_precision, target_precision, drafter_prompt, target_prompt
    )
    columns = [(f"α {a:g}", _predict(step_times, a, tokens, repeat, count)) for a in alphas]
    validation = _last(config, windows, validate)
    if as_json:
        from app.simulation.devices import ASSUMPTIONS
        from app.simulation.report import MODEL

        figures: dict[str, Any] = {
            "device": device,
            "source": chosen.source,
            "assumptions": list(ASSUMPTIONS),
            "label": MODEL,
            "tokens": tokens,
            "repeat": repeat,
            "cost_ratio": step_times.cost_ratio,
            "step_times": step_times.as_json(),
            "predictions": [
                {"alpha": a, **_row(p), "label": MODEL, "validation_error": validation.error_of(p.strategy)}
                for a, (_, column) in zip(alphas, columns, strict=True)
                for p in column
            ],
            "validation": validation.as_json(),
        }
        print(json.dumps(figures, indent=2))
    else:
        print_device(chosen, count, step_times, columns, validation, TableConsole())


def _alphas(text: str) -> list[float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if not values or not all(0 <= value <= 1 for value in values):
        raise typer.BadParameter(f"{text!r} is not a list of numbers from 0 to 1", param_hint="--alpha")
    return values


def _device(
    name: str,
    times: Path | None,
    tokens: int,
    drafter_precision: str,
    target_precision: str,
    drafter_prompt: int | None,
    target_prompt: int | None,
) -> tuple[Device, int, StepTimes]:
    """(device, how many, step times); what is wrong with an option is told under its name."""
    from app.simulation.devices import PairPlan, parse_device
    from app.simulation.inputs import SimulationError, StepTimes

    try:
        chosen, count = parse_device(name)
        rows = {"drafter_rows": drafter_prompt, "target_rows": target_prompt}
        plan = PairPlan(
            _precision(drafter_precision),
            _precision(target_precision),
            tokens=tokens,
            **{key: value for key, value in rows.items() if value is not None},
        )
        if times is None:
            plan.check(chosen, count)
            return chosen, count, plan.step_times(chosen)
        values = json.loads(times.read_text())
        return chosen, count, StepTimes.given(values.get("step_times", values), str(times))
    except SimulationError as error:
        raise typer.BadParameter(str(error)) from None
    except (ValueError, AttributeError):
        raise typer.BadParameter(f"{times}: not a JSON object of step times", param_hint="--times") from None


def _precision(text: str) -> str:
    return "16 bit" if text.replace(" ", "") == "16bit" else text


def _predict(step_times: StepTimes, alpha: float, tokens: int, repeat: float, devices: int) -> list[Prediction]:
    from app.simulation.inputs import sample_cases
    from app.simulation.predict import predict

    return predict(step_times, sample_cases(alpha, tokens, CASES, repeat), devices)


def _here(config: Path | None, windows: int) -> tuple[Validation, list[Prediction]]:
    """Measure and predict on this machine, and keep the validation."""
    from platformdirs import user_cache_path

    from app.bench.run import Bench, BenchSettings
    from app.simulation.predict import predict
    from app.simulation.validation import cache_file, save

    bench = Bench.configured(config, BenchSettings(windows=windows))
    found, cases = bench.validate()
    save(cache_file(user_cache_path("event-captioner"), bench.models), found)
    return found, predict(found.step_times, cases)


def _last(config: Path | None, windows: int, anew: bool) -> Validation:
    """The last validation of this pair on this machine; a new one where there is none."""
    from platformdirs import user_cache_path

    from app.config import load_config
    from app.session import load_pair
    from app.simulation.validation import cache_file, load

    path = cache_file(user_cache_path("event-captioner"), load_pair(load_config(config)))
    return (None if anew else load(path)) or _here(config, windows)[0]


def _row(prediction: Prediction) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(prediction) | {
        "ratio": prediction.p50_ms / prediction.alone_ms,
        "guarded_ms": prediction.guarded_ms,
        "pays": prediction.pays,
        "eta": prediction.eta,
    }
