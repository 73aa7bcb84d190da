"""Prompts: the official texts, split at the official places."""

import json
from pathlib import Path

import pytest

from models.prompts import EVENTGPT, VIDEO_LLAVA, Prompt, eventgpt_prompt, video_llava_prompt
from models.tokenizer import load_tokenizer

GOLDEN = Path(__file__).parents[3] / "shared/golden"
golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="../shared/golden is absent")


class Recorder:
    """A tokenizer that keeps what it was asked."""

    bos_id = 1

    def __init__(self) -> None:
        self.asked: list[tuple[str, bool]] = []

    def encode(self, text: str, *, continues: bool = False) -> tuple[int, ...]:
        self.asked.append((text, continues))
        return (len(text),)


@golden
def test_eventgpt_texts_are_the_official_ones() -> None:
    for case in json.loads((GOLDEN / "eventgpt/prompt.json").read_text())["cases"]:
        assert EVENTGPT.format(question=case["query"]) == case["prompt"]
        if "<event>" in case["query"]:
            continue  # the official code raises, and so do we
        tokenizer = Recorder()
        prompt = eventgpt_prompt(tokenizer, case["query"], 582)  # type: ignore[arg-type]
        assert [text for text, _ in tokenizer.asked] == case["chunks"]
        assert prompt.head_ids[0] == 1
        assert 1 not in prompt.tail_ids


@golden
@pytest.mark.parametrize("version", ["v5", "v444"])
def test_video_llava_texts_are_the_official_ones(version: str) -> None:
    content = json.loads((GOLDEN / f"videollava/prompt_{version}.json").read_text())
    prompts = {case["prompt"] for case in content if isinstance(case, dict) and case.get("style") == "hf"}
    for question in ("What are the key elements in this scene?", "What is happening in the scene?"):
        assert VIDEO_LLAVA.format(question=question) in prompts or not prompts


@golden
def test_video_llava_ids_are_those_around_the_video_token() -> None:
    """On the golden checkpoint's own tokenizer, against encoding the whole prompt with <video> in it."""
    from tokenizers import Tokenizer

    folder = GOLDEN / "videollava/ckpt_A_new"
    prompt = video_llava_prompt(load_tokenizer(folder), "w5 w7 w9", 136)
    whole = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(VIDEO_LLAVA.format(question="w5 w7 w9")).ids
    assert [*prompt.head_ids, 321, *prompt.tail_ids] == whole


def test_a_question_with_the_placeholder_is_refused() -> None:
    with pytest.raises(ValueError, match="must not contain <event>"):
        eventgpt_prompt(Recorder(), "Is <event> here?", 22)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must not contain <video>"):
        video_llava_prompt(Recorder(), "<video>", 136)  # type: ignore[arg-type]


def test_length_counts_the_visual_rows() -> None:
    prompt = Prompt((1, 5, 6), 22, (7, 8))
    assert len(prompt) == 27
    assert prompt.head.tolist() == [1, 5, 6]
    assert prompt.tail.tolist() == [7, 8]
