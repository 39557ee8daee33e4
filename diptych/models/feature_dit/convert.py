"""Published names of the feature transformer (diffusers' LuminaNextDiT2DModel with BLIP3-o's projection of
the condition) and ours, in both directions.

A published config says nothing of the transformer, so its sizes are read off the shapes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from diptych.models.feature_dit.config import FeatureDiTConfig

_MODEL = {
    "embed": "patch_embedder.proj",
    "caption_in": "caption_projection.linear_1",
    "caption_out": "caption_projection.linear_2",
    "time_in": "time_caption_embed.timestep_embedder.linear_1",
    "time_out": "time_caption_embed.timestep_embedder.linear_2",
    "pooled_norm": "time_caption_embed.caption_embedder.0",
    "pooled": "time_caption_embed.caption_embedder.1",
    "head_scale": "norm_out.linear_1",
    "head": "norm_out.linear_2",
}
_BLOCK = {
    "modulation": ("norm1.linear",),
    "attention_norm": ("norm1.norm",),
    "attention_out_norm": ("norm2",),
    "text_norm": ("norm1_context",),
    "attention.queries": ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn2.to_q"),
    "attention.key_value": ("attn2.to_k", "attn2.to_v"),
    "attention.query_norm": ("attn1.norm_q",),
    "attention.key_norm": ("attn1.norm_k",),
    "attention.text_query_norm": ("attn2.norm_q",),
    "attention.text_key_norm": ("attn2.norm_k",),
    "attention.out": ("attn2.to_out.0",),
    "feed_norm": ("ffn_norm1",),
    "feed_out_norm": ("ffn_norm2",),
    "feed_forward.gate_up": ("feed_forward.linear_1", "feed_forward.linear_3"),
    "feed_forward.down": ("feed_forward.linear_2",),
}
"""Ours -> published, several where ours lie stacked in one matrix."""
_GATE = ("attention.gate", "gate")


def config_of(shapes: Mapping[str, tuple[int, ...]], whole_time: bool = True) -> FeatureDiTConfig:
    """Sizes of published weights, by their names. Raises ValueError for what is no such transformer."""
    try:
        width, channels = shapes["patch_embedder.proj.weight"]
        (heads,) = shapes["layers.0.gate"]
        inner, _ = shapes["layers.0.feed_forward.linear_1.weight"]
        _, caption = shapes["caption_projection.linear_1.weight"]
        embedded, _ = shapes["time_caption_embed.timestep_embedder.linear_1.weight"]
    except (KeyError, ValueError) as error:
        raise ValueError(f"the weights are no transformer over features: {error}") from error
    depth = len({found[1] for name in shapes if (found := re.match(r"layers\.(\d+)\.", name))})
    return FeatureDiTConfig(
        depth=depth,
        width=width,
        heads=heads,
        channels=channels,
        caption_channels=caption,
        ffn_width=inner,
        time_width=embedded,
        whole_time=whole_time,
    )


def _published(name: str) -> tuple[str, ...]:
    """Published names that one of ours stands for, in their order."""
    owner, _, kind = name.rpartition(".")
    found = re.fullmatch(r"blocks\.(\d+)\.(.+)", owner)
    if found is None:
        return (f"{_MODEL[owner]}.{kind}",)
    number, within = found.groups()
    if f"{within}.{kind}" == _GATE[0]:
        return (f"layers.{number}.{_GATE[1]}",)
    return tuple(f"layers.{number}.{part}.{kind}" for part in _BLOCK[within])


class FromPublished(Mapping[str, Tensor]):
    """Published weights by our names, each made when it is asked for."""

    def __init__(self, weights: Mapping[str, Tensor], names: list[str]) -> None:
        """`names`: of our model's parameters. Raises ValueError for published weights that lack some, or hold
        more."""
        self._weights, self._names = weights, names
        wanted = {part for name in names for part in _published(name)}
        if missing := sorted(wanted - set(weights)):
            raise ValueError(f"the weights have no {missing[0]}")
        # a parameter that the public class never uses
        if extra := sorted(set(weights) - wanted - {"pad_token", "caption_projection.pad_token"}):
            raise ValueError(f"a transformer over features has no place for {extra[0]}")

    def __getitem__(self, name: str) -> Tensor:
        parts = [self._weights[part] for part in _published(name)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def to_published(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our weights by their published names."""
    made: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        parts = _published(name)
        # chunks share memory, which safetensors does not write
        chunks = tensor.chunk(len(parts)) if len(parts) > 1 else (tensor,)
        made |= {part: chunk.contiguous() for part, chunk in zip(parts, chunks, strict=True)}
    return made
