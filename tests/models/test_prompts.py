"""Prompts: the official texts, split at the official places."""

import itertools
import json
import shutil
from pathlib import Path

import pytest

from models.errors import ModelError
from models.prompts import (
    EVENTGPT,
    SYSTEM,
    VIDEO_LLAVA,
    Prompt,
    check_prompt,
    eventgpt_prompt,
    video_llava_original_prompt,
    video_llava_prompt,
)
from models.tokenizer import load_tokenizer

GOLDEN = Path(__file__).parents[3] / "shared/golden"
QUESTIONS = ("What are the key elements in this scene?", "What is happening in the scene?")
golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="../shared/golden is absent")


class Recorder:
    """A tokenizer that keeps what it was asked."""

    bos_id, eos_id = 1, 2

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
    prompts = {case["prompt"] for case in content if case["style"] == "hf"}
    assert prompts == {VIDEO_LLAVA.format(question=question) for question in QUESTIONS}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentencepiece model with Llama's settings whose pieces stand at Llama's ids, as far as golden files tell them.

    The real tokenizer is not at hand; a unigram model of equal scores prefers the fewest pieces, which here is the
    official segmentation. So ids, chunks, BOS and leading spaces are compared exactly, the merges are not.
    """
    from sentencepiece import sentencepiece_model_pb2 as proto

    known = {i: f"<0x{i - 3:02X}>" for i in range(3, 259)}
    for case in json.loads((GOLDEN / "videollava/prompt_v5.json").read_text()):
        known |= {i: piece for i, piece in zip(case["ids"], case.get("tokens", ()), strict=False) if 3 <= i < 32000}
    pieces = json.loads((GOLDEN / "eventgpt/prompt.json").read_text())
    ids = [i for i in pieces["cases"][0]["input_ids_nonlegacy"] if i > 0]
    assert len(ids) == len([piece for piece in pieces["decode_pieces_case0"] if piece])
    known |= {i: piece for i, piece in zip(ids, pieces["decode_pieces_case0"], strict=True) if i >= 3}
    model = proto.ModelProto()
    for i in range(32000):
        piece = model.pieces.add(piece=known.get(i, f"\ue000{i}"), score=-1.0 if i in known else -100.0)
        piece.type = 6 if 3 <= i < 259 else 1
    for i, (name, kind) in enumerate((("<unk>", 2), ("<s>", 3), ("</s>", 3))):
        model.pieces[i].piece, model.pieces[i].type = name, kind
    model.trainer_spec.model_type, model.trainer_spec.byte_fallback = 1, True
    model.normalizer_spec.name, model.normalizer_spec.add_dummy_prefix = "identity", True
    model.normalizer_spec.remove_extra_whitespaces, model.normalizer_spec.escape_whitespaces = False, True
    folder = tmp_path_factory.mktemp("llama")
    (folder / "tokenizer.model").write_bytes(model.SerializeToString())
    return folder


@golden
def test_eventgpt_ids_are_the_official_ones(llama: Path) -> None:
    case = json.loads((GOLDEN / "eventgpt/prompt.json").read_text())["cases"][0]
    prompt = eventgpt_prompt(load_tokenizer(llama), case["query"], 582)
    assert [*prompt.head_ids, -200, *prompt.tail_ids] == case["input_ids_nonlegacy"]
    assert len(prompt) == 59 + 582


@golden
@pytest.mark.parametrize("version", ["v5", "v444"])
@pytest.mark.parametrize("legacy", [False, True])
def test_video_llava_ids_are_the_official_ones(llama: Path, version: str, legacy: bool, tmp_path: Path) -> None:
    """With either rule for what follows a special token; tokenizer_config.json says which one a checkpoint means."""
    shutil.copyfile(llama / "tokenizer.model", tmp_path / "tokenizer.model")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"legacy": legacy}))
    tokenizer = load_tokenizer(tmp_path)
    cases = json.loads((GOLDEN / f"videollava/prompt_{version}.json").read_text())
    chosen = [case for case in cases if case["style"] == "hf" and case["legacy"] is legacy]
    assert chosen
    for case, question in zip(chosen, itertools.cycle(QUESTIONS), strict=False):
        prompt = video_llava_prompt(tokenizer, question, 2056)
        assert [*prompt.head_ids, 32001, *prompt.tail_ids] == case["ids"]
        assert len(prompt) == 2056 + case["n_text"]


def test_the_originals_prompt_is_eight_images_after_the_system_sentence() -> None:
    recorder = Recorder()
    prompt = video_llava_original_prompt(recorder, "What is happening?", 2056)  # type: ignore[arg-type]
    assert [text for text, _ in recorder.asked] == [SYSTEM + " USER: ", "\nWhat is happening? ASSISTANT:"]
    assert not any(continues for _, continues in recorder.asked)  # each chunk by itself, as EventGPT's
    assert len(prompt) == 1 + 1 + 2056 + 1
    with pytest.raises(ModelError, match="must not contain <image>"):
        video_llava_original_prompt(recorder, "<image>", 2056)  # type: ignore[arg-type]


@golden
def test_video_llava_ids_are_those_around_the_video_token() -> None:
    """On the golden checkpoint's own tokenizer, against encoding the whole prompt with <video> in it."""
    from tokenizers import Tokenizer

    folder = GOLDEN / "videollava/ckpt_A_new"
    prompt = video_llava_prompt(load_tokenizer(folder), "w5 w7 w9", 136)
    whole = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(VIDEO_LLAVA.format(question="w5 w7 w9")).ids
    assert [*prompt.head_ids, 321, *prompt.tail_ids] == whole


def test_a_question_with_the_placeholder_is_refused() -> None:
    with pytest.raises(ModelError, match="must not contain <event>"):
        eventgpt_prompt(Recorder(), "Is <event> here?", 22)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="must not contain <video>"):
        video_llava_prompt(Recorder(), "<video>", 136)  # type: ignore[arg-type]


@pytest.mark.parametrize("special", ["bos_id", "eos_id"])
def test_a_tokenizer_without_bos_or_eos_is_refused(special: str) -> None:
    """Sentencepiece says -1 of a token that it has not, which would be the last row of the embeddings."""
    tokenizer = Recorder()
    check_prompt(eventgpt_prompt(tokenizer, "", 1), tokenizer, 32000, {"eos_token_id": [2, 3]}, "x")  # type: ignore[arg-type]
    setattr(tokenizer, special, -1)
    prompt = eventgpt_prompt(tokenizer, "", 1)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=r"x: the tokenizer gives id -1, the vocabulary is 32,000: .* another"):
        check_prompt(prompt, tokenizer, 32000, {}, "x")  # type: ignore[arg-type]


def test_length_counts_the_visual_rows() -> None:
    prompt = Prompt((1, 5, 6), 22, (7, 8))
    assert len(prompt) == 27
    assert prompt.head.tolist() == [1, 5, 6]
    assert prompt.tail.tolist() == [7, 8]
