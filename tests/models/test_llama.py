"""The decoder against transformers' LlamaForCausalLM, and its cached forms against one whole pass."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
torch.set_num_threads(1)  # tests share their cores; spinning threads would fight over them

from models.checkpoint import CheckpointError  # noqa: E402
from models.llama import LlamaConfig, LlamaDecoder  # noqa: E402

SIZES = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "rope_theta": 5000.0,
    "max_position_embeddings": 64,
}


@pytest.fixture(scope="module")
def decoder():
    torch.manual_seed(3)
    decoder = LlamaDecoder(LlamaConfig.from_json(SIZES, "config.json")).eval()
    for parameter in decoder.parameters():  # far from the small initial values, so that an error shows
        torch.nn.init.normal_(parameter, std=0.3)
    return decoder.requires_grad_(False)


@pytest.fixture(scope="module")
def whole(decoder):
    ids = torch.randint(0, 97, (30,))
    embeddings = decoder.embed(ids)
    return ids, embeddings, decoder.lm_head(decoder.hidden(embeddings[None]))[0]


def step(decoder, embeddings, length, rows, caches):
    count = len(embeddings)
    positions = torch.arange(length, length + count)
    write, valid = torch.tensor([length]), torch.tensor([length + count])
    return decoder(embeddings, positions, write, valid, torch.tensor(list(rows), dtype=torch.long), caches)[0]


def test_equals_transformers(decoder, whole):
    transformers = pytest.importorskip("transformers")
    ids, _, logits = whole
    peer = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES)).eval()
    peer.load_state_dict(decoder.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(peer(ids[None]).logits[0], logits, atol=2e-4, rtol=1e-4)


def test_prefill_decode_truncate_and_verify_equal_the_whole_pass(decoder, whole):
    _, x, logits = whole
    caches = decoder.empty_caches(32)
    torch.testing.assert_close(step(decoder, x[:20], 0, [3, 19], caches), logits[[3, 19]], atol=1e-4, rtol=1e-4)
    for i in (20, 21):
        torch.testing.assert_close(step(decoder, x[i : i + 1], i, [0], caches), logits[i : i + 1], atol=1e-4, rtol=1e-4)
    step(decoder, x[2:9], 22, [], caches)  # a draft; truncated by the next call's length
    torch.testing.assert_close(step(decoder, x[22:], 22, range(8), caches), logits[22:], atol=1e-4, rtol=1e-4)


def test_a_tree_sees_only_its_path(decoder, whole):
    _, x, logits = whole
    caches = decoder.empty_caches(32)
    step(decoder, x[:20], 0, [], caches)
    # a wrong branch (one token of the start) between the two tokens of the right one
    rows, positions = torch.stack([x[20], x[4], x[21]]), torch.tensor([20, 20, 21])
    mask = torch.zeros(3, 32, dtype=torch.bool)
    mask[:, :20] = True
    mask[0, 20] = mask[1, 21] = mask[2, 20] = mask[2, 22] = True
    write, asked = torch.tensor([20]), torch.tensor([0, 2])
    found = decoder.tree(rows, positions, write, mask, asked, caches)[0]
    torch.testing.assert_close(found, logits[[20, 21]], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_key_value_heads": 4}, "do not fit together"),
        ({"hidden_size": -1}, "must be positive"),
        ({"rms_norm_eps": float("inf")}, "rms_norm_eps is inf, which must be positive and finite"),
        ({"rms_norm_eps": float("nan")}, "must be positive and finite"),
        ({"rope_theta": 10**400}, "must be positive and finite"),
        ({"rope_scaling": "linear"}, "rope_scaling is 'linear', not an object"),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, "rope type 'linear' is not supported"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings True is not supported"),
        ({"vocab_size": "many"}, "not int"),
    ],
)
def test_a_bad_configuration_is_one_line(change, message):
    with pytest.raises(CheckpointError, match=message) as error:
        LlamaConfig.from_json(SIZES | change, "x/config.json")
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("x/config.json: ")
