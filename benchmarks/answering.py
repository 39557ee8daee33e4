"""Answers of the mixture's understanding stream against transformers' Qwen3 of the same sizes and weights.

python benchmarks/answering.py [--dtype float32|bfloat16] [--device cpu] [--layers 14] [--context 512]
  [--tokens 16] [--pairs 9] [--batches 1 8]

Runs alternate in one process, warm-up left out; ratios are the peer's median over ours, with the smallest and
largest ratio of a pair beside it. The norms of queries and keys differ (two halves here, one there), so the
two write other tokens at the same cost. The memory's speed is that at which a large float32 matrix is read
once, by a product with a vector, measured in each round beside the others.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import dataclass

import torch
from timing import timed
from torch import Tensor, nn
from transformers import DynamicCache, Qwen3Config, Qwen3ForCausalLM

from diptych.models.mot import MoT, MoTConfig
from diptych.surgery import pack
from diptych.systems.u1.writing import Writer

LAYER = {
    "input_layernorm": "attention_norm",
    "self_attn.q_proj": "q",
    "self_attn.k_proj": "k",
    "self_attn.v_proj": "v",
    "self_attn.o_proj": "o",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn.gate",
    "mlp.up_proj": "ffn.up",
    "mlp.down_proj": "ffn.down",
}
WHOLE = {"model.embed_tokens": "embedding", "model.norm": "und_norm", "lm_head": "text_head"}


def models(options: argparse.Namespace) -> tuple[Qwen3ForCausalLM, MoT]:
    """The peer, and a mixture that holds its weights and no generation stream."""
    config = MoTConfig(
        vocab_size=32_768,
        width=1024,
        depth=options.layers,
        heads=16,
        kv_heads=8,
        head_dim=128,
        ffn_width=3072,
    )
    torch.manual_seed(0)
    peer = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=config.vocab_size,
            hidden_size=config.width,
            num_hidden_layers=config.depth,
            num_attention_heads=config.heads,
            num_key_value_heads=config.kv_heads,
            head_dim=config.head_dim,
            intermediate_size=config.ffn_width,
            tie_word_embeddings=False,
            attn_implementation="sdpa",
        )
    ).eval()
    weights = {f"{ours}.weight": peer.get_parameter(f"{theirs}.weight") for theirs, ours in WHOLE.items()}
    for layer in range(config.depth):
        for theirs, ours in LAYER.items():
            weight = peer.get_parameter(f"model.layers.{layer}.{theirs}.weight")
            weights[f"blocks.{layer}.und.{ours}.weight"] = weight
        for part in ("q_norm_t", "q_norm_hw", "k_norm_t", "k_norm_hw"):
            weights[f"blocks.{layer}.und.{part}.weight"] = torch.ones(config.head_dim // 2)
    with torch.device("meta"):
        mixture = MoT(config)
    for block in mixture.blocks:
        block.gen = nn.Identity()
    for name in ("clean_interface", "noisy_interface", "time_embedder", "noise_scale_embedder", "pixel_head"):
        setattr(mixture, name, nn.Identity())
    mixture.gen_norm = nn.Identity()
    # a copy: each has its own weights in memory, as it would alone
    mixture.load_state_dict({name: weight.detach().clone() for name, weight in weights.items()}, assign=True)
    dtype = getattr(torch, options.dtype)
    peer, mixture = peer.to(options.device, dtype), mixture.to(options.device, dtype).eval()
    pack(mixture)
    return peer, mixture


def read_ours(model: MoT, ids: Tensor) -> Writer:
    """A row of text for each row of ids (B, L)."""
    rows, length = ids.shape
    positions = torch.zeros(rows, length, 3, dtype=torch.long, device=ids.device)
    positions[..., 0] = torch.arange(length, device=ids.device)
    lengths = torch.full((rows,), length, device=ids.device)
    hidden, cache = model.prefix(model.embedding(ids), positions, lengths, None)
    return Writer(model, hidden[:, -1], cache)


def write_ours(model: MoT, writer: Writer, count: int) -> None:
    for _ in range(count):
        writer.put(writer.logits.argmax(-1, keepdim=True).tolist())


def read_peer(model: Qwen3ForCausalLM, ids: Tensor) -> tuple[Tensor, DynamicCache]:
    out = model(ids, past_key_values=DynamicCache(config=model.config), use_cache=True, logits_to_keep=1)
    return out.logits[:, -1], out.past_key_values


def write_peer(model: Qwen3ForCausalLM, logits: Tensor, cache: DynamicCache, count: int) -> None:
    for _ in range(count):
        ids = torch.tensor(logits.argmax(-1, keepdim=True).tolist(), device=logits.device)
        logits = model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]


@dataclass(frozen=True)
class Round:
    """Seconds of one round."""

    read: tuple[float, float]
    """Ours, and the peer's."""
    wrote: tuple[float, float]
    product: float


def row(name: str, pairs: list[tuple[float, float]], shares: list[float]) -> str:
    """One row of the table; `shares` of the memory's speed, one a pair."""
    ratios = [theirs / ours for ours, theirs in pairs]
    own, peer = (statistics.median(values) for values in zip(*pairs, strict=True))
    share = f"{statistics.median(shares):.0%} ({min(shares):.0%}-{max(shares):.0%})" if shares else ""
    return (
        f"| {name} | {own * 1e3:.1f} ms | {peer * 1e3:.1f} ms | {peer / own:.2f} "
        f"({min(ratios):.2f}-{max(ratios):.2f}) | {share} |"
    )


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--layers", type=int, default=14)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    options = parser.parse_args()
    peer, ours = models(options)
    weights = sum(p.numel() for name, p in peer.named_parameters() if "embed_tokens" not in name)
    told = {"torch": torch.__version__, "threads": torch.get_num_threads(), "weights": weights}
    print(json.dumps({**vars(options), **told}))
    print("| what | ours | peer | ratio (pairs) | of the memory's speed |\n|---|---|---|---|---|")
    matrix = torch.randn(16_384, 8_192, device=options.device)
    vector, size = matrix[0].clone(), matrix.numel() * matrix.element_size()
    config, count = ours.config, options.tokens
    for batch in options.batches:
        ids = torch.randint(0, 30_000, (batch, options.context), device=options.device)
        rounds: list[Round] = []
        for _ in range(options.pairs + 1):
            writer, read = timed(options.device, read_ours, ours, ids)
            (logits, cache), read_there = timed(options.device, read_peer, peer, ids)
            _, wrote = timed(options.device, write_ours, ours, writer, count)
            _, product = timed(options.device, matrix.mv, vector)
            _, wrote_there = timed(options.device, write_peer, peer, logits, cache, count)
            rounds.append(Round((read, read_there), (wrote / count, wrote_there / count), product))
        # the first warms up
        rounds = rounds[1:]
        kept = 2 * config.depth * config.kv_heads * config.head_dim * batch * options.context
        moved = (weights + kept) * getattr(torch, options.dtype).itemsize
        shares = [moved / r.wrote[0] / (size / r.product) for r in rounds]
        name = f"{options.dtype}, batch {batch}"
        print(row(f"{name}: read {options.context}", [r.read for r in rounds], []), flush=True)
        print(row(f"{name}: one token more", [r.wrote for r in rounds], shares), flush=True)
    speed = size / statistics.median(r.product for r in rounds)
    print(f"the memory's speed: {speed / 1e9:.1f} GB/s")


if __name__ == "__main__":
    main()
