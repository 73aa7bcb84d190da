"""Figures of single passes: decode, prefill, verify, the fused last chunk, host overhead, the ratio of the prefills."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch

from app.gpu_checks.figures import Figure
from app.gpu_checks.rig import DRAFTS, LAST_CHUNK, Rig, Side

BYTES_A_SECOND, FLOP_A_SECOND = 4.3e12, 790e12  # of an H200, as attained; the floors of the issue


def decode_step(rig: Rig) -> list[Figure]:
    """One token of the target against reading its weights and its cache once."""
    side = rig.target
    measured = rig.milliseconds(lambda: side.decoder.enqueue(1, 1))
    floor = (side.weight_bytes + side.decoder.s_max * side.row_bytes) / BYTES_A_SECOND * 1e3
    return [
        Figure("target decode step", "torch", measured, "ms"),
        Figure("target decode step ÷ floor", "torch", measured / floor, "×", most=1.25, note=f"floor {floor:.2f} ms"),
    ]


def prefill(rig: Rig) -> list[Figure]:
    """The target's prompt, vision included, against its arithmetic; and against the drafter's."""
    target, drafter = (rig.milliseconds(side.prefill) for side in (rig.target, rig.drafter))
    floor = rig.target.prefill_flop / FLOP_A_SECOND * 1e3
    rows = f"{rig.target.prompt:,} and {rig.drafter.prompt:,} rows"
    return [
        Figure("target prefill", "torch", target, "ms"),
        Figure("drafter prefill", "torch", drafter, "ms"),
        Figure("target prefill ÷ floor", "torch", target / floor, "×", most=1.6, note=f"floor {floor:.1f} ms"),
        Figure("target prefill ÷ drafter prefill", "torch", target / drafter, "×", note=f"{rows}; survey 8.59 and 3.8"),
    ]


def verify(rig: Rig) -> list[Figure]:
    """28 drafts at once against one token; and in the prefill's last chunk against that chunk without them."""
    decoder, chunk = rig.target.decoder, min(LAST_CHUNK, rig.target.prompt)
    one, many = (rig.milliseconds(lambda n=n: decoder.enqueue(n, n)) for n in (1, DRAFTS))  # type: ignore[misc]
    before = rig.target.prompt - chunk
    plain = rig.milliseconds(lambda: decoder.enqueue(chunk, 1, before))
    fused = rig.milliseconds(lambda: decoder.enqueue(chunk + DRAFTS, 1 + DRAFTS, before))
    return [
        Figure(f"verify of {DRAFTS} ÷ decode step", "torch", many / one, "×", most=1.15),
        Figure(f"{DRAFTS} drafts in a last chunk of {chunk}, extra", "torch", fused - plain, "ms"),
    ]


def int4_step(rig: Rig, cheap: Rig) -> list[Figure]:
    """A drafter's token with int4 weights against the same with 16 bits."""
    whole, small = (each.milliseconds(lambda s=each.drafter: s.decoder.enqueue(1, 1)) for each in (rig, cheap))  # type: ignore[misc]
    return [
        Figure("drafter decode step, 16 bit", "torch", whole, "ms"),
        Figure("drafter decode step, int4", "torch", small, "ms", note="PyTorch's _weight_int4pack_mm"),
        Figure("int4 drafter step ÷ its 16-bit step", "torch", small / whole, "×", most=0.45),
    ]


def host_overhead(rig: Rig) -> list[Figure]:
    """How long the host is busy with one decode step: replaying its graph, and launching it operator by operator."""
    side = rig.target

    def launches(graph: bool) -> float:
        made = side.decoder._pass(1, 1)
        held, made.graph = made.graph, made.graph if graph else None
        made.used = made.used if graph else -(10**6)  # below two uses nothing is captured
        rig.wait()
        begin = time.perf_counter()
        for _ in range(rig.repeats):
            side.decoder.enqueue(1, 1)
        busy = (time.perf_counter() - begin) / rig.repeats * 1e6
        rig.wait()
        made.graph, made.used = held, 2
        return busy

    side.decoder.enqueue(1, 1)
    how = "graph replay" if rig.gpu else "no graph on a CPU"
    return [
        Figure("host time a decode step", "torch", launches(True), "µs", most=100, note=how),
        Figure("host time a decode step, plain launches", "torch", launches(False), "µs"),
    ]


def peers(rig: Rig, new_tokens: int, compiled: bool = True) -> list[Figure]:
    """transformers' generate on the target's own weights and prompt length, to so many tokens, against ours."""
    ours = rig.milliseconds(lambda: autoregressive(rig.target, new_tokens), 3)
    figures = [Figure(f"autoregressive to {new_tokens} tokens", "torch", ours, "ms")]
    for name, least, static in (("eager", 4.0, False), ("static cache, compiled", 1.1, True)):
        title = f"transformers {name} ÷ autoregressive"
        if static and not compiled:
            figures.append(Figure(title, "transformers", None, "×", least=least, note="compilation was left out"))
            continue
        try:
            peer = rig.milliseconds(_transformers(rig.target, new_tokens, static), 2)
            figures.append(Figure(title, "transformers", peer / ours, "×", least=least))
        except Exception as error:  # a peer that does not run is a row, not the end of the measurement
            why = " ".join(str(error).split())[:100]
            figures.append(Figure(title, "transformers", None, "×", least=least, note=f"{type(error).__name__}: {why}"))
    return figures


def autoregressive(side: Side, new_tokens: int) -> None:
    """Prefill and greedy steps through the runtime's contract: each token comes to the host, as in a caption."""
    side.prefill()
    side.decoder.wait()
    ids = np.ones(1, np.int64)
    for step in range(new_tokens - 1):
        logits = side.decoder.forward(side.decoder.embed(ids), side.prompt + step, np.zeros(1, np.int64), 1)
        ids = logits.argmax(-1)


def _transformers(side: Side, new_tokens: int, static: bool) -> Callable[[], None]:
    """generate over embeddings of the prompt's length, with a LlamaForCausalLM that holds the target's own tensors."""
    from transformers import LlamaConfig, LlamaForCausalLM

    c = side.network.decoder.config
    config = LlamaConfig(
        vocab_size=c.vocab_size, hidden_size=c.hidden_size, intermediate_size=c.intermediate_size,
        num_hidden_layers=c.num_hidden_layers, num_attention_heads=c.num_attention_heads,
        num_key_value_heads=c.num_key_value_heads, head_dim=c.head_dim, max_position_embeddings=4096,
        attn_implementation="sdpa", eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model.load_state_dict(side.network.decoder.state_dict(), assign=True)
    model.model.rotary_emb = type(model.model.rotary_emb)(config).to(side.device)
    model.eval()
    ids = torch.ones(1, side.prompt, dtype=torch.long, device=side.device)
    options = {"cache_implementation": "static"} if static else {}

    def generate() -> None:
        side.encode()
        with torch.inference_mode():
            model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, min_new_tokens=new_tokens,
                do_sample=False, **options,
            )  # fmt: skip

    return generate
