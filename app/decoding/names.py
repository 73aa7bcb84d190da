"""The names of the strategies, for whoever offers them without loading any: configuration and commands."""

from __future__ import annotations

from typing import Literal

StrategyName = Literal["autoregressive", "speculative", "prefill_hiding", "pearl", "amusd", "dsi", "ssd", "swiftspec"]
