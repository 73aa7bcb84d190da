import json
from pathlib import Path
from typing import Any

import pytest

from app.publishing.errors import PublishError
from app.publishing.files import CaptionFile


def payload(start_us: int, text: str) -> dict[str, Any]:
    return {"window": {"start_us": start_us, "end_us": start_us + 1_500_000}, "text": text}


def test_json_lines_are_there_at_once(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with CaptionFile(path, 0) as file:
        file.write(payload(0, "größer"))
        assert json.loads(path.read_text())["text"] == "größer"
        file.write(payload(1, "b"))
    assert len(path.read_text().splitlines()) == 2


def test_vtt(tmp_path: Path) -> None:
    path = tmp_path / "out.vtt"
    with CaptionFile(path, 1_000_000) as file:
        file.write(payload(1_000_000, "a <b> &\n\nc"))
        file.write(payload(3_662_500_000, ""))
        assert not path.exists()
    assert path.read_text() == (
        "WEBVTT\n\n1\n00:00:00.000 --> 00:00:01.500\na &lt;b&gt; &amp; c\n\n2\n01:01:01.500 --> 01:01:03.000\n…\n\n"
    )
    assert list(tmp_path.iterdir()) == [path]


def test_srt_and_a_window_before_the_start(tmp_path: Path) -> None:
    path = tmp_path / "out.SRT"
    with CaptionFile(path, 500_000) as file:
        file.write(payload(0, "a < b"))
    assert path.read_text() == "1\n00:00:00,000 --> 00:00:01,000\na < b\n\n"


@pytest.mark.parametrize("suffix", [".jsonl", ".vtt", ".srt"])
def test_an_interruption_keeps_what_is_complete(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    with pytest.raises(KeyboardInterrupt), CaptionFile(path, 0) as file:  # noqa: PT012
        file.write(payload(0, "kept"))
        raise KeyboardInterrupt
    assert "kept" in path.read_text()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", [".jsonl", ".vtt"])
def test_a_failure_before_the_first_caption_touches_nothing(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    path.write_text("older")
    with pytest.raises(RuntimeError), CaptionFile(path, 0):
        raise RuntimeError
    assert path.read_text() == "older"
    assert list(tmp_path.iterdir()) == [path]


def test_no_captions_is_an_empty_file(tmp_path: Path) -> None:
    with CaptionFile(tmp_path / "out.vtt", 0):
        pass
    assert (tmp_path / "out.vtt").read_text() == "WEBVTT\n\n"


@pytest.mark.parametrize("name", ["out.txt", "out", "absent/out.vtt", "folder.srt"])
def test_bad_paths_are_refused_before_work_begins(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.srt").mkdir()
    with pytest.raises(PublishError, match=r"out|folder"):
        CaptionFile(tmp_path / name, 0)
