"""The configuration: one strict model a section, from YAML. Unknown keys are errors; every key says what it is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from app.camera_config import CameraConfig
from app.config_section import Section, TopicLevel
from app.decoding.names import StrategyName
from app.gate_config import GateConfig
from app.gpu_config import GpuConfig
from app.model_config import ModelsConfig, Role
from app.mqtt_config import MqttConfig
from app.publishing.broker import CREDENTIAL
from app.service_config import CommandsConfig, RecordingConfig, ServiceConfig
from app.yaml_source import ConfigError, YamlSource, explain

BUNDLED_PAIR = Path(__file__).parents[1] / "models" / "demo" / "pair"

DraftSource = Literal["drafter", "history"]
SOURCES: tuple[DraftSource, ...] = ("drafter", "history")


class DecodingConfig(Section):
    strategy: StrategyName = Field(
        default="prefill_hiding",
        title="Strategy",
        description="The schedule of the two models. Whatever it is, the caption is the target's, token for token.",
    )
    placement: Literal["auto", "lead", "serial", "overlap"] = Field(
        default="auto",
        title="Placement",
        description="When prefill_hiding makes the draft: before the window closes (lead), just before the target's "
        "prefill (serial), during it (overlap), or what a calibration at start-up finds quickest (auto).",
    )
    lead_ms: Literal["auto"] | Annotated[float, Field(ge=0, le=10_000)] = Field(
        default="auto",
        title="Lead",
        description="With placement lead: how long before the window closes the draft is begun, in ms of wall time "
        "(at most half a window, less than a hop; none at speed max); auto: the measured time of one draft.",
    )
    prefill: Literal["streaming", "whole"] = Field(
        default="streaming",
        title="Prefill",
        description="When the target takes the frames in: each as it comes (streaming), so that at a window's end only "
        "the last is left to do, or all when the window has closed (whole). Whole in any case with a target that "
        "attends over time, while the frame rate is not known, and at speed max.",
    )
    max_new_tokens: int = Field(
        default=64, ge=1, le=1024, title="Longest caption", description="Tokens at most a caption."
    )
    draft_tokens: Literal["auto"] | Annotated[int, Field(ge=1, le=64)] = Field(
        default="auto", title="Draft length", description="Tokens of a draft; auto: follows the measured acceptance."
    )
    sources: list[DraftSource] = Field(
        default_factory=lambda: list[DraftSource](SOURCES),
        min_length=1,
        title="Draft sources",
        description="Who proposes tokens: the event camera's drafter, and this camera's own recent captions (history), "
        "which cost nothing. Strategies other than prefill_hiding use the drafter alone.",
    )
    temperature: float = Field(
        default=0.0,
        ge=0,
        le=10,
        title="Temperature",
        description="0: always the likeliest token. Above: sampled, the flatter the higher.",
    )
    top_p: float = Field(
        default=1.0,
        gt=0,
        le=1,
        title="Nucleus",
        description="Sample among the fewest likeliest tokens that together have this probability; 1: among all.",
    )
    seed: int = Field(
        default=0,
        ge=0,
        lt=2**63,
        title="Seed",
        description="Of the sampling: with the same seed a window has the same caption, whatever the strategy.",
    )
    target_sessions: int = Field(
        default=1,
        ge=1,
        le=8,
        title="Target sessions",
        description="Copies of the target, each with weights and a cache of its own, on which strategy dsi verifies "
        "side by side. More than one pays only where each has cores or a device to itself; other strategies use one.",
    )
    guard: bool = Field(
        default=True,
        title="Guard",
        description="Stop drafting while it is measured to cost more than it saves.",
    )
    question: str | None = Field(
        default=None,
        min_length=1,
        max_length=2000,
        title="Question",
        description="What both models are asked about every window. Left out: the question the target was made for.",
    )


class WindowsConfig(Section):
    length_ms: int = Field(
        default=1000, ge=10, le=60_000, title="Length", description="Sensor time that one caption describes, in ms."
    )
    hop_ms: int = Field(
        default=1000,
        ge=10,
        le=60_000,
        title="Hop",
        description="Sensor time from one window's start to the next's, in ms.",
    )
    frames: int = Field(
        default=8, ge=1, le=64, title="Frames", description="RGB frames for the target, evenly spaced over the window."
    )
    drafter_span_ms: Literal["auto"] | Annotated[int, Field(ge=1, le=60_000)] = Field(
        default="auto",
        title="Drafter's span",
        description="The drafter sees the events of the last so many ms of a window; auto: what it was trained on, "
        "400 for the demo pair and 50 for EventGPT.",
    )
    max_events: int = Field(
        default=2_000_000,
        ge=1_000,
        le=100_000_000,
        title="Most events",
        description="Events kept at once (13 bytes each); over it a window's oldest are dropped, counted and told in "
        "the payload.",
    )
    frame_wait_ms: int = Field(
        default=100,
        ge=0,
        le=2_000,
        title="Wait for frames",
        description="How long after its end, in ms, a window waits at most for the frames it is to be given, where "
        "they come from another device than the events and are longer under way. It waits for none that changes "
        "nothing.",
    )

    @model_validator(mode="after")
    def _fits(self) -> WindowsConfig:
        if self.hop_ms > self.length_ms:
            raise ValueError(f"hop_ms ({self.hop_ms}) is longer than length_ms ({self.length_ms}): it would leave gaps")
        if self.drafter_span_ms != "auto" and self.drafter_span_ms > self.length_ms:
            raise ValueError(f"drafter_span_ms ({self.drafter_span_ms}) is longer than length_ms ({self.length_ms})")
        return self


class ReplayConfig(Section):
    speed: Literal["max"] | Annotated[float, Field(gt=0, le=1000)] = Field(
        default=1.0, title="Speed", description="1 is real time, 2 twice as fast, max as fast as the models allow."
    )
    lossless: bool = Field(
        default=True,
        title="Lossless",
        description="Caption every window, however long it takes; false: the newest window wins, as with a camera.",
    )


class TelemetryConfig(Section):
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", title="Log level", description="Least severe message that is logged to stderr."
    )
    log_format: Literal["console", "json"] = Field(
        default="console", title="Log format", description="For people (console) or one JSON object a line (json)."
    )


class Config(Section):
    """Everything that can be set. See docs/configure.md."""

    node: TopicLevel = Field(
        default="demo",
        title="Node",
        description="Name of this robot or vehicle in the topics; no `/`, `+`, `#` or spaces.",
    )
    root: TopicLevel = Field(
        default="event-captioner",
        title="Root",
        description="First level of every topic; no `/`, `+`, `#` or spaces.",
    )
    models: ModelsConfig = Field(default_factory=ModelsConfig, title="Models", description="The two networks.")
    gpu: GpuConfig = Field(default_factory=GpuConfig, title="GPU", description="Two models on one GPU.")
    decoding: DecodingConfig = Field(
        default_factory=DecodingConfig, title="Decoding", description="How the two models make one caption."
    )
    windows: WindowsConfig = Field(
        default_factory=WindowsConfig, title="Windows", description="How the stream is cut into windows."
    )
    cameras: dict[TopicLevel, CameraConfig] = Field(
        default_factory=lambda: {"front": CameraConfig()},
        min_length=1,
        max_length=16,
        title="Cameras",
        description="What `run` captions: a name in the topics, and its source.",
    )
    service: ServiceConfig = Field(
        default_factory=ServiceConfig, title="Service", description="How `run` stays up, and where it tells how it is."
    )
    gate: GateConfig = Field(
        default_factory=GateConfig, title="Gate", description="Whether `run` captions a still scene again and again."
    )
    commands: CommandsConfig = Field(
        default_factory=CommandsConfig, title="Commands", description="What `run` takes orders for, over MQTT."
    )
    recording: RecordingConfig = Field(
        default_factory=RecordingConfig, title="Recording", description="What `record` writes, and how much of it."
    )
    replay: ReplayConfig = Field(default_factory=ReplayConfig, title="Replay", description="How recordings are played.")
    mqtt: MqttConfig = Field(default_factory=MqttConfig, title="MQTT", description="Where captions are published.")
    telemetry: TelemetryConfig = Field(
        default_factory=TelemetryConfig, title="Telemetry", description="What is logged, and how."
    )

    def model_path(self, role: Role) -> Path:
        """Folder of a model; the bundled one where none is named."""
        named = self.models.drafter.path if role == "drafter" else self.models.target.path
        return Path(named) if named else BUNDLED_PAIR / role


def load_config(path: Path | None) -> Config:
    """The configuration in a YAML file, or the defaults. Paths come out relative to the file.

    Raises ConfigError with one line for each mistake: `file:line: key: what is wrong`.
    """
    if path is None:
        return Config()
    source = YamlSource.read(path)
    data = source.data
    _resolve_paths(data, path.parent)
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        raise ConfigError("\n".join(explain(error, source, Config))) from None


def override(config: Config, **sections: dict[str, Any]) -> Config:
    """The configuration with some keys of some sections replaced, checked again."""
    data = config.model_dump()
    for name, values in sections.items():
        data[name].update(values)
    return Config.model_validate(data)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of the configuration, for editors."""
    schema = Config.model_json_schema()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "event-captioner configuration",
    }


def _resolve_paths(data: dict[str, Any], base: Path) -> None:
    """Make file names in the file relative to where the file is; what is not text is left for validation to refuse."""
    cameras = data.get("cameras")
    for *sections, key in (
        ("models", "drafter", "path"),
        ("models", "target", "path"),
        *(("cameras", name, "path") for name in (cameras if isinstance(cameras, dict) else ())),
        *(
            ("cameras", name, "rgb_camera", key)
            for name in (cameras if isinstance(cameras, dict) else ())
            for key in ("file", "password_file")
        ),
        ("mqtt", "username_file"),
        ("mqtt", "password_file"),
        ("mqtt", "ca_file"),
        ("mqtt", "outbox_file"),
        ("recording", "folder"),
    ):
        inner: Any = data
        for section in sections:
            inner = inner.get(section) if isinstance(inner, dict) else None
        if isinstance(inner, dict) and isinstance(inner.get(key), str) and not inner[key].startswith(CREDENTIAL):
            inner[key] = str(base / inner[key])
