"""The pair's Llama-style tokenizer: byte-pair merges learned on what the pair reads and says."""

from __future__ import annotations

import itertools
from pathlib import Path

from models.demo.recipe import VOCABULARY
from models.demo.world.captions import EMPTY, WORDINGS, caption
from models.demo.world.truth import ObjectTruth, SceneTruth
from models.demo.world.vocabulary import COLOURS, DIRECTIONS, DISTANCES, KINDS
from models.prompts import EVENTGPT, QUESTION, VIDEO_LLAVA

ALPHABET = ["\n", *(chr(code) for code in range(33, 127))]  # any question can be asked, letter by letter
MORE_WORDS = (  # for other questions than the demo's, and to fill the vocabulary
    "describe the scene in one sentence what do you see how many people are there which colour is that vehicle "
    "where does it go who crosses behind before after first last stop turn enter leave person bicycle animal child "
    "women men bus van traffic light dark day night rain sun building house tree wall sign wheel hand head left side"
)


def corpus() -> list[str]:
    """Every attribute in every wording, alone and in pairs, and the prompts."""
    things = [
        ObjectTruth(kind, COLOURS[i % len(COLOURS)], distance, direction, speed)
        for i, (kind, distance, direction) in enumerate(itertools.product(KINDS, DISTANCES, (*DIRECTIONS, None)))
        for speed in (("fast", "slow") if direction else ("standing",))
    ]
    scenes = [SceneTruth((thing,)) for thing in things]
    scenes += [SceneTruth((first, second)) for first, second in zip(things, things[7:] + things[:7], strict=True)]
    texts = [caption(scene, wording) for scene in scenes for wording in range(len(WORDINGS))]
    prompts = [
        chunk
        for template, placeholder in ((EVENTGPT, "<event>"), (VIDEO_LLAVA, "<video>"))
        for chunk in template.format(question=QUESTION).split(placeholder)
    ]
    # the prompts as often as the captions' own words, so that they are short
    return texts + [*prompts, EMPTY] * 200 + [MORE_WORDS] * 40


def train_tokenizer(path: Path) -> None:
    """Write tokenizer.json: `▁` for spaces, <unk> 0, <s> 1, </s> 2, VOCABULARY entries in all. Deterministic."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first"),
            pre_tokenizers.Split("\n", "isolated"),
            pre_tokenizers.Punctuation("isolated"),  # a word is the same token before a comma
        ]
    )
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="first")
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<unk>", "<s>", "</s>"],
        initial_alphabet=["▁", *ALPHABET],
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    path.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path))
