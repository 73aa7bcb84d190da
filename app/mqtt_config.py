"""The section `mqtt` of the configuration: where captions are published, as whom, and what waits for the broker."""

from __future__ import annotations

from pydantic import Field, field_validator, model_validator

from app.config_section import Section
from app.publishing.broker import parse_url
from app.publishing.errors import PublishError


class MqttConfig(Section):
    enabled: bool = Field(
        default=True, title="Enabled", description="Publish captions, status and telemetry over MQTT."
    )
    url: str = Field(
        default="mqtt://localhost:1883",
        title="Broker",
        description="mqtt://[user@]host[:port], or mqtts:// for TLS. Passwords: see password_file and password_env.",
    )
    username_file: str | None = Field(
        default=None,
        title="User file",
        description="File whose first line is the user, or credential:NAME; instead of a user in the url.",
    )
    password_file: str | None = Field(
        default=None,
        title="Password file",
        description="File whose first line is the password, relative to this file; or credential:NAME, a credential "
        "that systemd hands over.",
    )
    password_env: str | None = Field(
        default=None, title="Password variable", description="Environment variable that holds the password."
    )
    ca_file: str | None = Field(
        default=None,
        title="Certificate authority",
        description="With mqtts: PEM file of the authority to trust, relative to this file. Left out: the system's.",
    )
    plain_password: bool = Field(
        default=False,
        title="Password without TLS",
        description="Send the password over mqtt:// too, where whoever listens can read it.",
    )
    outbox_file: str | None = Field(
        default=None,
        title="Outbox file",
        description="Where `run` keeps captions that no broker has acknowledged, relative to this file. Left out: "
        "`outbox.db` in the state directory.",
    )
    retain_in_replay: bool = Field(
        default=False,
        title="Retain in a replay",
        description="Let a replay leave retained messages on the broker, as a robot would.",
    )
    outbox_size: int = Field(
        default=1000,
        ge=1,
        le=1_000_000,
        title="Outbox size",
        description="Messages kept while the broker is away.",
    )
    max_age_s: float = Field(
        default=600.0,
        gt=0,
        le=86_400,
        title="Oldest message",
        description="What waited longer is dropped, and counted.",
    )
    late_after_s: float = Field(
        default=2.0, gt=0, le=3_600, title="Age budget", description="A caption that leaves later is marked `late`."
    )
    keepalive_s: int = Field(
        default=15,
        ge=6,
        le=3_600,
        title="Keepalive",
        description="When the link to the broker goes dead without closing, the status is `offline` within 1.5 times "
        "so long, in seconds.",
    )
    draft_topic: bool = Field(
        default=False, title="Draft topic", description="Also publish each unverified draft, at once, on …/draft."
    )

    @field_validator("url")
    @classmethod
    def _broker_url(cls, url: str) -> str:
        try:
            return parse_url(url).url
        except PublishError as error:
            raise ValueError(str(error)) from None

    @model_validator(mode="after")
    def _one_password(self) -> MqttConfig:
        if self.password_file and self.password_env:
            raise ValueError("password_file and password_env are both given: leave one out")
        return self
