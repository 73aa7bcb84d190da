"""The section of the configuration for models on a GPU."""

from __future__ import annotations

from pydantic import Field, field_validator

from app.config_section import Section
from models.errors import ModelError
from models.runtimes.sharing import EVERY_WAY, Sharing


class GpuConfig(Section):
    sharing: str = Field(
        default="auto",
        title="Sharing",
        description="How two models share one GPU: serial (passes take turns), streams, priority (a stream for the "
        "drafter that goes first), green_context(N) (N multiprocessors for the drafter), chunked or chunked(ROWS) "
        "(turns between parts of the target's prefill); auto: the quickest, measured at start-up. No GPU: no effect.",
    )

    @field_validator("sharing")
    @classmethod
    def _known(cls, text: str) -> str:
        if text != "auto":
            try:
                Sharing.parse(text)
            except ModelError as error:
                raise ValueError(str(error).removeprefix("gpu.sharing: ")) from None
        return text

    @property
    def ways(self) -> tuple[Sharing, ...]:
        """What a calibration may choose from; turns are always among them."""
        return EVERY_WAY if self.sharing == "auto" else (Sharing.parse(self.sharing),)
