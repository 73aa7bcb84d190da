"""Tokenizers: sentencepiece with Llama's rules, tokenizer.json, content words."""

import io
from pathlib import Path

import pytest
import sentencepiece
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from models.errors import ModelError
from models.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentencepiece model with Llama's settings: byte fallback, a leading space, no other normalisation."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a red car turns left", "USER: What happens around the robot? ASSISTANT:"] * 40),
        model_writer=model, vocab_size=320, model_type="bpe", byte_fallback=True, character_coverage=1.0,
        normalization_rule_name="identity", remove_extra_whitespaces=False, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("llama")
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    return folder


def test_sentencepiece_chunks_and_continuations(llama: Path) -> None:
    tokenizer = load_tokenizer(llama)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(llama / "tokenizer.model"))
    assert (tokenizer.bos_id, tokenizer.eos_id) == (1, 2)
    assert list(tokenizer.encode("a red car")) == processor.encode("a red car")
    pieces = [tokenizer.raw_piece(i) for i in tokenizer.encode("\nWhat happens", continues=True)]
    assert pieces[0] == "<0x0A>"
    assert "".join(pieces[1:]) == "What▁happens"
    assert not tokenizer.raw_piece(tokenizer.encode("red", continues=True)[0]).startswith("▁")
    assert tokenizer.decode(tokenizer.encode("a red car")) == "a red car"


def test_tokenizer_json_is_read_as_it_would_follow_a_special_token(tmp_path: Path) -> None:
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2, "▁": 3, "a": 4, "b": 5, "▁a": 6, "▁b": 7}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("▁", "a"), ("▁", "b")], unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Replace("▁", " ")
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    loaded = load_tokenizer(tmp_path)
    assert (loaded.bos_id, loaded.eos_id, loaded.size) == (1, 2, 8)
    assert loaded.encode("a b") == (4, 7)
    assert loaded.encode(" a", continues=True) == (6,)
    assert loaded.decode([1, 4, 7, 2]) == "a b"
    assert [loaded.piece(i) for i in (7, 4, 99)] == [" b", "a", "<99>"]


def test_padding_and_truncation_stored_with_a_tokenizer_are_not_obeyed(tmp_path: Path) -> None:
    words = ["<unk>", "<s>", "</s>", "▁a", "▁b"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.enable_padding(length=8, pad_id=0, pad_token="<unk>")
    tokenizer.enable_truncation(2)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert load_tokenizer(tmp_path).encode("a b a b") == (3, 4, 3, 4)


def test_content_words_are_what_the_scene_decides(tmp_path: Path) -> None:
    words = ["<unk>", "<s>", "</s>", "▁red", "▁car", "▁Left", "ing", "▁the", "▁A", "▁to", ":", "?", "<0x0A>", "▁"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    content = load_tokenizer(tmp_path).content
    assert [word for word, is_content in zip(words, content, strict=True) if is_content] == words[3:7]


def test_what_is_no_tokenizer_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no tokenizer\.json or tokenizer\.model"):
        load_tokenizer(tmp_path)
    for name, content in (("tokenizer.model", b"\x00\x01nothing"), ("tokenizer.json", b"{")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ModelError, match=rf"{name}: not a readable tokenizer") as caught:
            load_tokenizer(tmp_path)
        assert "\n" not in str(caught.value)
