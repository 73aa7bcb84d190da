"""A model's tokenizer: `tokenizer.json` (Hugging Face tokenizers) or Llama's `tokenizer.model` (sentencepiece)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.checkpoint import read_json
from models.errors import ModelError

_GRAMMAR = """
a an the this that these those it its they their there here he she his her we our you your i my is are
was were be been being am do does did has have had will would can could may might must shall should and
or but nor so as if than then while when where which who whom whose what of to in on at by for from with
without into onto over under through up down out off about after before between near toward towards along
across not no s
"""
_FUNCTION_WORDS = frozenset(_GRAMMAR.split())


class Tokenizer(ABC):
    """Text to ids and back. `encode` never adds BOS or EOS."""

    bos_id: int
    eos_id: int
    size: int  # ids it knows

    @abstractmethod
    def encode(self, text: str, *, continues: bool = False) -> tuple[int, ...]:
        """Ids of one chunk of text. A chunk that `continues` a sentence gets no leading space of its own."""

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; special tokens are silent."""

    @abstractmethod
    def raw_piece(self, token_id: int) -> str:
        """The vocabulary's own spelling, `▁` for a leading space."""

    def piece(self, token_id: int) -> str:
        """What one token adds to a text, with its leading space; `�` for a lone byte of a longer character."""
        if not 0 <= token_id < self.size:
            return f"<{token_id}>"  # a row of the head beyond the vocabulary: a real choice of an untrained row
        raw = self.raw_piece(token_id)
        if len(raw) == 6 and raw.startswith("<0x") and raw.endswith(">"):
            return bytes([int(raw[3:5], 16)]).decode(errors="replace")
        return raw.replace("▁", " ")

    @cached_property
    def content(self) -> NDArray[np.bool_]:
        """[size]: True where a token belongs to a content word: what the scene decides, not the grammar around it."""
        words = (self.raw_piece(i) for i in range(self.size))
        return np.array([_is_content(word) for word in words], np.bool_)


class _HuggingFace(Tokenizer):
    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer as Fast

        try:
            self._fast = Fast.from_file(str(path))
        except Exception as error:  # the binding raises bare Exception
            raise ModelError(f"{path}: not a readable tokenizer ({_first_line(error)}); copy it again") from None
        self._fast.no_padding()  # stored with a tokenizer that was saved in use; transformers resets both, too
        self._fast.no_truncation()
        self.size = self._fast.get_vocab_size(with_added_tokens=True)
        bos, eos = self._fast.token_to_id("<s>"), self._fast.token_to_id("</s>")
        if bos is None or eos is None:
            raise ModelError(f"{path}: no <s> or </s>; a Llama tokenizer is expected")
        self.bos_id, self.eos_id = bos, eos

    def encode(self, text: str, *, continues: bool = False) -> tuple[int, ...]:
        if continues:  # what follows a special token is tokenised just as it would be after <video>
            return tuple(self._fast.encode("<s>" + text, add_special_tokens=False).ids[1:])
        return tuple(self._fast.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._fast.decode(list(ids), skip_special_tokens=True))

    def raw_piece(self, token_id: int) -> str:
        return self._fast.id_to_token(token_id) or ""


class _SentencePiece(Tokenizer):
    def __init__(self, path: Path, legacy: bool) -> None:
        from sentencepiece import SentencePieceProcessor

        try:
            self._processor = SentencePieceProcessor(model_file=str(path))
        except (RuntimeError, OSError) as error:
            raise ModelError(f"{path}: not a readable tokenizer ({_first_line(error)}); copy it again") from None
        self._legacy = legacy
        self.size, self.bos_id, self.eos_id = len(self._processor), self._processor.bos_id(), self._processor.eos_id()

    def encode(self, text: str, *, continues: bool = False) -> tuple[int, ...]:
        if not continues or self._legacy:
            return tuple(self._processor.encode(text))
        newline = self._processor.encode("\n")  # the leading space and a byte, which nothing merges with
        return tuple(self._processor.encode("\n" + text)[len(newline) :])

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._processor.decode([i for i in ids if 0 <= i < self.size]))

    def raw_piece(self, token_id: int) -> str:
        return str(self._processor.id_to_piece(token_id))


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a model folder. Raises ModelError when there is none or it cannot be read."""
    if (path := folder / "tokenizer.json").is_file():
        return _HuggingFace(path)
    if (path := folder / "tokenizer.model").is_file():
        settings = folder / "tokenizer_config.json"
        # transformers' word for its old rule: what follows a special token begins with a space of its own
        legacy = settings.is_file() and read_json(settings).get("legacy") is True
        return _SentencePiece(path, legacy)
    raise ModelError(f"{folder}: no tokenizer.json or tokenizer.model; copy the checkpoint's tokenizer there")


def _is_content(raw: str) -> bool:
    word = raw.replace("▁", "").lower()
    return word.isalnum() and word not in _FUNCTION_WORDS


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200]
