"""Published names <-> ours, both ways: the native `.pth` layout and diffusers' SanaTransformer2DModel, Sprint
included."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from diptych.files.fields import HONOURED, NEEDED, Fields, check_fields, only, table
from diptych.files.typed import convert
from diptych.models.linear_dit.config import LinearDiTConfig, ratio_of
from diptych.models.linear_dit.layers import position_table

# left: ours. Norms and tables are bare parameters of ours; every other entry is a module, whose weight and
# bias move together
NATIVE = {
    "patch_embed": "x_embedder.proj",
    "caption_in": "y_embedder.y_proj.fc1",
    "caption_out": "y_embedder.y_proj.fc2",
    "caption_norm": "attention_y_norm.weight",
    "time_in": "t_embedder.mlp.0",
    "time_out": "t_embedder.mlp.2",
    "guidance_in": "cfg_embedder.mlp.0",
    "guidance_out": "cfg_embedder.mlp.2",
    "modulation": "t_block.1",
    "head_table": "final_layer.scale_shift_table",
    "head": "final_layer.linear",
}
NATIVE_BLOCK = {
    "table": "scale_shift_table",
    "attention.qkv": "attn.qkv",
    "attention.out": "attn.proj",
    "attention.query_norm": "attn.q_norm.weight",
    "attention.key_norm": "attn.k_norm.weight",
    "cross_attention.query": "cross_attn.q_linear",
    "cross_attention.out": "cross_attn.proj",
    "cross_attention.key_value": "cross_attn.kv_linear",
    "cross_attention.query_norm": "cross_attn.q_norm.weight",
    "cross_attention.key_norm": "cross_attn.k_norm.weight",
    "feed_forward.widen": "mlp.inverted_conv.conv",
    "feed_forward.depthwise": "mlp.depth_conv.conv",
    "feed_forward.narrow": "mlp.point_conv.conv",
}
DIFFUSERS = {
    "patch_embed": "patch_embed.proj",
    "caption_in": "caption_projection.linear_1",
    "caption_out": "caption_projection.linear_2",
    "caption_norm": "caption_norm.weight",
    "time_in": "time_embed.emb.timestep_embedder.linear_1",
    "time_out": "time_embed.emb.timestep_embedder.linear_2",
    "modulation": "time_embed.linear",
    "head_table": "scale_shift_table",
    "head": "proj_out",
}
# diffusers embeds time and guidance in one class of its own, so the time's names change as well
DIFFUSERS_GUIDED = {
    "time_in": "time_embed.timestep_embedder.linear_1",
    "time_out": "time_embed.timestep_embedder.linear_2",
    "guidance_in": "time_embed.guidance_embedder.linear_1",
    "guidance_out": "time_embed.guidance_embedder.linear_2",
}
DIFFUSERS_BLOCK = {
    "table": "scale_shift_table",
    "attention.qkv": "attn1.to_q attn1.to_k attn1.to_v",
    "attention.out": "attn1.to_out.0",
    "attention.query_norm": "attn1.norm_q.weight",
    "attention.key_norm": "attn1.norm_k.weight",
    "cross_attention.query": "attn2.to_q",
    "cross_attention.key_value": "attn2.to_k attn2.to_v",
    "cross_attention.out": "attn2.to_out.0",
    "cross_attention.query_norm": "attn2.norm_q.weight",
    "cross_attention.key_norm": "attn2.norm_k.weight",
    "feed_forward.widen": "ff.conv_inverted",
    "feed_forward.depthwise": "ff.conv_depth",
    "feed_forward.narrow": "ff.conv_point",
}
"""Our matrices of several parts (qkv, key_value) are several weights there, stacked in this order."""

FIELDS: Fields = {
    **table(
        NEEDED,
        """num_attention_heads num_layers num_cross_attention_heads cross_attention_head_dim
        cross_attention_dim in_channels caption_channels""",
    ),
    **table(
        HONOURED,
        """out_channels mlp_ratio sample_size patch_size interpolation_scale guidance_embeds
        timestep_scale""",
    ),
    "_class_name": only("SanaTransformer2DModel"),
    "attention_head_dim": only(32),
    "attention_bias": only(False),
    "dropout": only(0.0, 0),
    "norm_elementwise_affine": only(False),
    "norm_eps": only(1e-6),
    "guidance_embeds_scale": only(0.1),
    "qk_norm": only(None, "rms_norm_across_heads"),
}
"""Of the config.json of a SanaTransformer2DModel."""

# the position buffer is computed anew, the log variance only weighs Sprint's training loss, and the null
# caption belongs to the system: none of them is part of the network
_IGNORED_NATIVE = ("pos_embed", "logvar_linear.weight", "logvar_linear.bias", "y_embedder.y_embedding")
# 1x1 convolutions there, plain matrices here: two axes of length one come and go
_CONVOLUTIONS = ("feed_forward.widen.weight", "feed_forward.narrow.weight")


class Renamed(Mapping[str, Tensor]):
    """Our state dict over published tensors: each is put together when it is asked for, so that a large model
    can be read piece by piece."""

    def __init__(self, weights: Mapping[str, Tensor], places: Mapping[str, list[str]]) -> None:
        """`places`: our name -> theirs, several where ours is stacked."""
        self._weights, self._places = weights, places

    def __getitem__(self, ours: str) -> Tensor:
        parts = [self._weights[name] for name in self._places[ours]]
        tensor = torch.cat(parts) if len(parts) > 1 else parts[0]
        return tensor[..., 0, 0] if ours.endswith(_CONVOLUTIONS) else tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def from_native(weights: Mapping[str, Tensor]) -> Renamed:
    """Our state dict from a native one. The unused position buffer, Sprint's log-variance head and the null
    caption are left out: see `native_null_caption`. Raises ValueError for a name that is missing or
    unknown."""
    known = [name for name in weights if name not in _IGNORED_NATIVE]
    return Renamed(weights, _places(known, NATIVE, "blocks", NATIVE_BLOCK))


def native_null_caption(weights: Mapping[str, Tensor]) -> Tensor | None:
    """The null caption (tokens, channels) that native checkpoints carry; diffusers folders have none."""
    return weights.get("y_embedder.y_embedding")


def to_native(
    weights: Mapping[str, Tensor], null_caption: Tensor | None = None, config: LinearDiTConfig | None = None
) -> dict[str, Tensor]:
    """A native state dict from ours; with the config, also the table of positions of a model that has one."""
    named = _write(weights, NATIVE, "blocks", NATIVE_BLOCK)
    if config is not None and config.position_scale is not None:
        side = config.position_base // config.patch
        named["pos_embed"] = position_table(side, side, config.width, side, config.position_scale)[None]
    return named if null_caption is None else {**named, "y_embedder.y_embedding": null_caption}


def from_diffusers(weights: Mapping[str, Tensor]) -> Renamed:
    """Our state dict from a SanaTransformer2DModel's. Raises ValueError for a name that is missing or
    unknown."""
    known = [name for name in weights if name != "patch_embed.pos_embed"]
    guided = any(name.startswith("time_embed.guidance_embedder") for name in known)
    table = {**DIFFUSERS, **(DIFFUSERS_GUIDED if guided else {})}
    return Renamed(weights, _places(known, table, "transformer_blocks", DIFFUSERS_BLOCK))


def to_diffusers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A SanaTransformer2DModel state dict from ours."""
    guided = "guidance_in.weight" in weights
    return _write(
        weights, {**DIFFUSERS, **(DIFFUSERS_GUIDED if guided else {})}, "transformer_blocks", DIFFUSERS_BLOCK
    )


def config_from_native(
    weights: dict[str, Tensor], cross_heads: int | None = None, **overrides: Any
) -> LinearDiTConfig:
    """The config that native weights fit, native conventions set (whole times, both epsilons).

    Head numbers of the cross-attention cannot be read off weights: published widths have theirs, others must
    be told. Raises ValueError where they are not, and where weights do not say whether the model adds
    positions (`position_scale` among the overrides tells).
    """
    width, channels, _, patch = _shape(weights, "x_embedder.proj.weight", 4)
    caption_channels = _shape(weights, "y_embedder.y_proj.fc1.weight", 2)[1]
    inner = _shape(weights, "blocks.0.mlp.depth_conv.conv.weight", 4)[0] // 2
    heads = cross_heads or {1152: 16, 2240: 20}.get(width)
    if heads is None:
        raise ValueError(f"width {width} is no published one: tell the number of cross-attention heads")
    guided = "cfg_embedder.mlp.0.weight" in weights
    values: dict[str, Any] = {
        "depth": 1 + max(int(found[1]) for name in weights if (found := re.match(r"blocks\.(\d+)\.", name))),
        "width": width,
        "cross_heads": heads,
        "channels": channels,
        "patch": patch,
        "caption_channels": caption_channels,
        "mlp_ratio": ratio_of(inner, width),
        "qk_norm": "blocks.0.attn.q_norm.weight" in weights,
        "guidance_embedding": guided,
        # the native code truncates the time to an integer unless it is normalised to 0..1, as Sprint's is
        "whole_time": not guided,
        "time_scale": 1.0 if guided else 1000.0,
        # 1e-8 is what the native block passes; the default of its attention class is another, 1e-15
        "attention_eps": 1e-8,
        "cross_norm_eps": 1e-6,
    }
    if "position_scale" not in overrides:
        values |= _positions(weights.get("pos_embed"), width, values["patch"])
    return LinearDiTConfig(**{**values, **overrides})


def _shape(weights: Mapping[str, Tensor], name: str, axes: int) -> tuple[int, ...]:
    """Shape of a weight that sizes are read from; a KeyError where it is missing."""
    shape = tuple(weights[name].shape)
    if len(shape) != axes or 0 in shape:
        raise ValueError(f"{name} is {shape}, and {axes} axes are needed")
    return shape


ONE_TABLE_SIDE = 64
"""Tokens a side from which published models add positions: those of 2048 px."""


def _positions(table: Tensor | None, width: int, patch: int) -> dict[str, Any]:
    """What a native checkpoint's buffer of positions says of the model.

    The native code fills it where the model adds positions and leaves zeros otherwise, but computes what it
    adds anew. So a table tells scale and base; zeros tell that there is none, unless the model is of a size
    that has one.
    """
    if table is None:
        return {}
    if table.ndim < 2 or not table.numel():
        raise ValueError(
            f"the checkpoint's table of positions (pos_embed) is {tuple(table.shape)}, which is none"
        )
    side = round(table.shape[-2] ** 0.5)
    if not bool(table.any()):
        if side >= ONE_TABLE_SIDE:
            raise ValueError(
                f"the checkpoint's table of positions (pos_embed) is empty and {side} tokens wide: models of "
                "that size add positions, and it does not tell with which scale. Name with --base a model "
                "of the same size"
            )
        return {}
    # where the column is 1, the fastest pair is sine and cosine of 1 / scale
    sine, cosine = table.float().reshape(-1, width)[1 % side, [0, width // 4]].tolist()
    angle = math.atan2(sine, cosine)
    # published scales are 1 and 2; a table in half precision gives them but for its rounding
    scale = round(1 / angle, 1) if angle > 0 else 0.0
    expected = position_table(side, side, width, side, scale) if scale and width % 4 == 0 else None
    if expected is None or table.numel() != expected.numel() or side < 2:
        raise ValueError("the checkpoint's table of positions (pos_embed) is not the sine-cosine one of SANA")
    if float((table.float().view_as(expected) - expected).abs().max()) > 0.01:
        raise ValueError("the checkpoint's table of positions (pos_embed) is not the sine-cosine one of SANA")
    return {"position_scale": scale, "position_base": side * patch}


def config_from_diffusers(values: dict[str, Any]) -> LinearDiTConfig:
    """Our config from a SanaTransformer2DModel's config.json. Raises ValueError for a setting that would
    change results here, and for a variant that does not exist in SANA."""
    where = "transformer config"
    check_fields(values, FIELDS, where)
    for name in ("num_attention_heads", "num_cross_attention_heads", "cross_attention_head_dim"):
        convert(int, values[name], f"{where}: {name}")
    width = values["num_attention_heads"] * 32
    expected = {
        "cross_attention_dim": (values["cross_attention_dim"], width),
        "cross width": (values["num_cross_attention_heads"] * values["cross_attention_head_dim"], width),
        "out_channels": (values.get("out_channels") or values["in_channels"], values["in_channels"]),
    }
    # a variant that would load by shape and compute something else must fail here, not draw noise
    for name, (found, wanted) in expected.items():
        if found != wanted:
            raise ValueError(f"transformer config: {name} is {found!r}, SANA has {wanted!r}")
    guided = bool(values.get("guidance_embeds", False))
    # a teacher of Sprint embeds 0.001 * time, its student gets times of 0..1 from the pipeline
    scale = convert(float, values.get("timestep_scale", 1.0), f"{where}: timestep_scale")
    ours = {
        "depth": values["num_layers"],
        "width": width,
        "cross_heads": values["num_cross_attention_heads"],
        "channels": values["in_channels"],
        "caption_channels": values["caption_channels"],
        "mlp_ratio": values.get("mlp_ratio", 2.5),
        "patch": values.get("patch_size", 1),
        "qk_norm": values.get("qk_norm") is not None,
        "guidance_embedding": guided,
        "position_scale": values.get("interpolation_scale"),
        "position_base": values.get("sample_size", 32),
        "time_scale": 1.0 if guided else 1000.0 * scale,
        "attention_eps": 1e-15,
        "cross_norm_eps": 1e-5,
    }
    return convert(LinearDiTConfig, ours, where)


def config_to_diffusers(config: LinearDiTConfig) -> dict[str, Any]:
    """config.json of a SanaTransformer2DModel. Raises ValueError for what diffusers cannot express."""
    if config.multi_frame:
        raise ValueError("diffusers' SANA draws single pictures: a model with multi_frame has no form there")
    return {
        "_class_name": "SanaTransformer2DModel",
        "in_channels": config.channels,
        "out_channels": config.channels,
        "num_attention_heads": config.heads,
        "attention_head_dim": 32,
        "num_layers": config.depth,
        "num_cross_attention_heads": config.cross_heads,
        "cross_attention_head_dim": config.width // config.cross_heads,
        "cross_attention_dim": config.width,
        "caption_channels": config.caption_channels,
        "mlp_ratio": config.mlp_ratio,
        "dropout": 0.0,
        "attention_bias": False,
        "sample_size": config.position_base,
        "patch_size": config.patch,
        "norm_elementwise_affine": False,
        "norm_eps": 1e-6,
        "interpolation_scale": config.position_scale,
        "guidance_embeds": config.guidance_embedding,
        "guidance_embeds_scale": 0.1,
        "qk_norm": "rms_norm_across_heads" if config.qk_norm else None,
        "timestep_scale": 1.0 if config.guidance_embedding else config.time_scale / 1000.0,
    }


def conventions_lost(config: LinearDiTConfig, target: str, solver: str) -> list[str]:
    """What the target's code ('native' or 'diffusers') computes otherwise than this config says, in words."""
    theirs = {
        "native": (1e-8, 1e-6, not config.guidance_embedding),
        # there the scheduler decides: that of DPM-Solver++ alone counts whole times
        "diffusers": (1e-15, 1e-5, solver == "dpm"),
    }[target]
    named = dataclasses.asdict(config)
    fields = ("attention_eps", "cross_norm_eps", "whole_time")
    return [
        f"{name} is {named[name]} here and {value} there"
        for name, value in zip(fields, theirs, strict=True)
        if named[name] != value
    ]


def _names(ours: str, table: dict[str, str]) -> list[str]:
    """Their names for one of our parameters: several where ours is stacked."""
    if ours in table:
        return [table[ours]]
    module, _, kind = ours.rpartition(".")
    if module not in table:
        raise ValueError(f"{ours} has no published name")
    return [f"{part}.{kind}" for part in table[module].split()]


def _theirs(ours: str, top: dict[str, str], blocks: str, block: dict[str, str]) -> list[str]:
    found = re.fullmatch(r"blocks\.(\d+)\.(.+)", ours)
    if found is None:
        return _names(ours, top)
    return [f"{blocks}.{found[1]}.{name}" for name in _names(found[2], block)]


def _write(
    weights: Mapping[str, Tensor], top: dict[str, str], blocks: str, block: dict[str, str]
) -> dict[str, Tensor]:
    named = {}
    for ours, tensor in weights.items():
        if ours.endswith(_CONVOLUTIONS):
            tensor = tensor[..., None, None]
        names = _theirs(ours, top, blocks, block)
        for name, part in zip(names, tensor.chunk(len(names)), strict=True):
            named[name] = part.contiguous()
    return named


def _places(
    weights: Iterable[str], top: dict[str, str], blocks: str, block: dict[str, str]
) -> dict[str, list[str]]:
    """Our name -> theirs, for all that weights of these names hold."""
    remaining = dict.fromkeys(weights)
    places = {}
    for ours in _our_names(remaining, blocks):
        names = _theirs(ours, top, blocks, block)
        # only a part that is wholly absent is optional: a query norm for q alone is a broken file
        if not any(name in remaining for name in names) and _optional(ours):
            continue
        missing = [name for name in names if name not in remaining]
        if missing:
            raise ValueError(f"the weights have no {missing[0]}")
        for name in names:
            del remaining[name]
        places[ours] = names
    if remaining:
        raise ValueError(f"{len(remaining)} weights have no place in SANA, among them {sorted(remaining)[0]}")
    return places


def _optional(ours: str) -> bool:
    return ours.endswith(("query_norm", "key_norm")) or ours.startswith("guidance_")


def _our_names(weights: Iterable[str], blocks: str) -> list[str]:
    """Our names of everything that a checkpoint of this depth can hold."""
    # counted, not the highest number: a name can hold any
    depth = len({found[1] for name in weights if (found := re.match(rf"{blocks}\.(\d+)\.", name))})
    names = ["caption_norm", "head_table"]
    for module in (
        "patch_embed",
        "caption_in",
        "caption_out",
        "time_in",
        "time_out",
        "modulation",
        "head",
        "guidance_in",
        "guidance_out",
    ):
        if module.startswith("guidance_") and not any(
            "guidance_embedder" in n or n.startswith("cfg_embedder") for n in weights
        ):
            continue
        names += [f"{module}.weight", f"{module}.bias"]
    no_bias = ("attention.qkv", "feed_forward.narrow")
    for index in range(depth):
        for part in NATIVE_BLOCK:
            bare = part == "table" or part.endswith("_norm")
            kinds = [""] if bare else [".weight"] if part in no_bias else [".weight", ".bias"]
            names += [f"blocks.{index}.{part}{kind}" for kind in kinds]
    return names
