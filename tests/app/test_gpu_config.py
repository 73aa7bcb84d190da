"""`gpu.sharing`: what it may be, and what a calibration may choose from then."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.config import Config, load_config, override
from app.yaml_source import ConfigError
from models.runtimes.sharing import EVERY_WAY, SERIAL, Sharing


def test_left_out_every_way_is_tried_and_one_that_is_named_alone() -> None:
    assert Config().gpu.ways == EVERY_WAY
    assert SERIAL in EVERY_WAY
    named = override(Config(), gpu={"sharing": "green_context(24)"})
    assert named.gpu.ways == (Sharing("green_context", 24),)


@pytest.mark.parametrize("wrong", ["both", "green_context", "chunked(0)"])
def test_another_word_is_refused_where_it_stands(tmp_path: Path, wrong: str) -> None:
    file = tmp_path / "robot.yaml"
    file.write_text(f'gpu:\n  sharing: "{wrong}"\n')
    with pytest.raises(ConfigError, match=r"robot.yaml:2: gpu.sharing: .*none of serial, streams, priority") as caught:
        load_config(file)
    assert "\n" not in str(caught.value)
