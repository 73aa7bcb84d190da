"""What every section of the configuration is made of."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

TOPIC_LEVEL = r"^[^/+#\s]+$"


def _topic_level(name: str) -> str:
    if not re.fullmatch(TOPIC_LEVEL, name):
        raise ValueError(f"{name!r} cannot be a level of an MQTT topic: no /, +, # or spaces, at least one character")
    return name


TopicLevel = Annotated[
    str, Field(max_length=64, json_schema_extra={"pattern": TOPIC_LEVEL}), AfterValidator(_topic_level)
]


class Section(BaseModel):
    """Strict: "5" is not 5, and a key nobody knows is a mistake, not a wish."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _empty_section(cls, data: Any) -> Any:
        """A section whose keys are all commented out is an empty one."""
        return {} if data is None else data
