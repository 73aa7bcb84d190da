"""Calibration on decoders that do nothing: what it measures, and whose error it tells."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from app.decoding.calibration import VERIFY_ROWS, calibrate
from models.runtimes.contract import Floats, Ints
from tests.app.decoding.toy import DRAFTER_PROMPT, EOS, TARGET_PROMPT, ToyModel, ToyVision

PIXELS = np.zeros(1, np.float32)


@dataclass
class IdleDecoder:
    """Fails in pass number `fails_at`, where that is not 0."""

    fails_at: int = 0
    s_max: int = 128
    width: int = 2
    passes: int = 0

    def forward(self, embeddings: Floats, length: int, rows: Ints, threads: int) -> Floats:
        self.passes += 1
        if self.passes == self.fails_at:
            raise RuntimeError("drafter: out of memory")
        return np.zeros((len(rows), 4), np.float32)

    def forward_tree(
        self, embeddings: Floats, positions: Ints, mask: NDArray[np.bool_], length: int, rows: Ints, threads: int
    ) -> Floats:
        return self.forward(embeddings, length, rows, threads)


def models(drafter: IdleDecoder) -> tuple[ToyModel, ToyModel]:
    return (
        ToyModel(ToyVision(DRAFTER_PROMPT), drafter, EOS, 4),  # type: ignore[arg-type]
        ToyModel(ToyVision(TARGET_PROMPT), IdleDecoder(), EOS, 4),  # type: ignore[arg-type]
    )


def test_every_phase_has_a_time() -> None:
    costs = calibrate(*models(IdleDecoder()), (DRAFTER_PROMPT, TARGET_PROMPT), (PIXELS, PIXELS), cores=1)
    assert tuple(costs.verify_curve) == VERIFY_ROWS
    for ms in (costs.drafter_step.ms, costs.target_step.ms, costs.overlap_target_ms, costs.overlap_step_ms):
        assert ms > 0


def test_a_drafter_that_does_not_run_says_why() -> None:
    with pytest.raises(RuntimeError, match="out of memory"):
        calibrate(*models(IdleDecoder(fails_at=1)), (DRAFTER_PROMPT, TARGET_PROMPT), (PIXELS, PIXELS), cores=1)
