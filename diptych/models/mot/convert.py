"""Published SenseNova-U1 weights and config to ours, and back.

Names differ, and convolutions over disjoint patches are linears here: their weights are reshaped, never
changed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from diptych.models.mot.config import Experts, MoTConfig

_TOP = {
    "language_model.model.embed_tokens": "embedding",
    "language_model.model.norm": "und_norm",
    "language_model.model.norm_mot_gen": "gen_norm",
    "language_model.lm_head": "text_head",
    "vision_model.embeddings.patch_embedding": "clean_interface.patches",
    "vision_model.embeddings.dense_embedding": "clean_interface.merge",
    "fm_modules.vision_model_mot_gen.embeddings.patch_embedding": "noisy_interface.patches",
    "fm_modules.vision_model_mot_gen.embeddings.dense_embedding": "noisy_interface.merge",
    "fm_modules.timestep_embedder.mlp.0": "time_embedder.first",
    "fm_modules.timestep_embedder.mlp.2": "time_embedder.second",
    "fm_modules.noise_scale_embedder.mlp.0": "noise_scale_embedder.first",
    "fm_modules.noise_scale_embedder.mlp.2": "noise_scale_embedder.second",
    "fm_modules.fm_head.0": "pixel_head.first",
    "fm_modules.fm_head.2": "pixel_head.second",
}
_LAYER = {
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "q",
    "self_attn.k_proj": "k",
    "self_attn.v_proj": "v",
    "self_attn.o_proj": "o",
    "self_attn.q_norm": "q_norm_t",
    "self_attn.q_norm_hw": "q_norm_hw",
    "self_attn.k_norm": "k_norm_t",
    "self_attn.k_norm_hw": "k_norm_hw",
    "mlp.gate_proj": "ffn.gate",
    "mlp.up_proj": "ffn.up",
    "mlp.down_proj": "ffn.down",
    "mlp.gate": "ffn.router",
}
_EXPERT = {"gate_proj": "gate", "up_proj": "up", "down_proj": "down"}
_TOP_BACK = {ours: theirs for theirs, ours in _TOP.items()}
_LAYER_BACK = {ours: theirs for theirs, ours in _LAYER.items()}
_EXPERT_BACK = {ours: theirs for theirs, ours in _EXPERT.items()}


def our_name(published: str) -> str:
    """'language_model.model.layers.3.mlp_mot_gen.up_proj.weight' -> 'blocks.3.gen.ffn.up.weight'.

    Raises ValueError for a name that the family does not have.
    """
    module, _, leaf = published.rpartition(".")
    if module in _TOP:
        return f"{_TOP[module]}.{leaf}"
    layer = re.fullmatch(r"language_model\.model\.layers\.(\d+)\.(.+)", module)
    if layer:
        # the suffix marks the generation stream, wherever in the name it stands
        part = layer[2].replace("_mot_gen", "")
        stream = "und" if part == layer[2] else "gen"
        expert = re.fullmatch(r"mlp\.experts\.(\d+)\.(\w+)", part)
        if expert and expert[2] in _EXPERT:
            return f"blocks.{layer[1]}.{stream}.ffn.experts.{expert[1]}.{_EXPERT[expert[2]]}.{leaf}"
        if part in _LAYER:
            return f"blocks.{layer[1]}.{stream}.{_LAYER[part]}.{leaf}"
    raise ValueError(f"{published!r} is not a weight of the mixture of transformers")


def published_name(ours: str) -> str:
    """Inverse of `our_name`."""
    module, _, leaf = ours.rpartition(".")
    if module in _TOP_BACK:
        return f"{_TOP_BACK[module]}.{leaf}"
    layer = re.fullmatch(r"blocks\.(\d+)\.(und|gen)\.(.+)", module)
    if layer:
        index, suffix, part = layer[1], "_mot_gen" if layer[2] == "gen" else "", layer[3]
        expert = re.fullmatch(r"ffn\.experts\.(\d+)\.(\w+)", part)
        if expert:
            part = f"mlp{suffix}.experts.{expert[1]}.{_EXPERT_BACK[expert[2]]}"
            return f"language_model.model.layers.{index}.{part}.{leaf}"
        if part in _LAYER_BACK:
            theirs = _LAYER_BACK[part]
            # the suffix follows the doubled module: mlp_mot_gen.up_proj, but self_attn.q_proj_mot_gen
            theirs = theirs.replace("mlp", "mlp" + suffix) if theirs.startswith("mlp") else theirs + suffix
            return f"language_model.model.layers.{index}.{theirs}.{leaf}"
    raise ValueError(f"{ours!r} has no published name")


def from_published(state: Mapping[str, Tensor], config: MoTConfig) -> dict[str, Tensor]:
    """Published state dict -> ours."""
    converted = {}
    for name, tensor in state.items():
        ours = our_name(name)
        if ours.endswith("patches.weight"):
            # (C, 3, row, column) in the order in which `patchify` lays a patch out
            tensor = tensor.flatten(1)
        elif ours.endswith("merge.weight"):
            # (C, vision, row, column) -> (C, row, column, vision): a token's four patches stand one after
            # another
            tensor = tensor.permute(0, 2, 3, 1).flatten(1)
        converted[ours] = tensor.contiguous()
    return converted


def to_published(state: Mapping[str, Tensor], config: MoTConfig) -> dict[str, Tensor]:
    """Our state dict -> published, bit for bit the inverse of `from_published`."""
    converted = {}
    for name, tensor in state.items():
        if name.endswith("interface.patches.weight"):
            tensor = tensor.unflatten(1, (3, config.patch, config.patch))
        elif name.endswith("interface.merge.weight"):
            tensor = tensor.unflatten(1, (2, 2, config.vision_width)).permute(0, 3, 1, 2)
        converted[published_name(name)] = tensor.contiguous()
    return converted


def config_from_published(
    published: Mapping[str, Any], weights: Iterable[tuple[str, tuple[int, ...]]] = ()
) -> MoTConfig:
    """Published config.json -> ours. The head's inner width is no field there: it is read from the weight
    shapes."""
    llm, vision = published["llm_config"], published["vision_config"]
    shapes = dict(weights)
    head = shapes.get("fm_modules.fm_head.0.weight")
    moe = llm.get("num_experts")

    def experts(prefix: str) -> Experts | None:
        if not moe:
            return None

        def field(name: str) -> Any:
            # what the generation stream does not say for itself it shares with the other
            return llm.get(prefix + name, llm[name])

        return Experts(
            count=field("num_experts"),
            per_token=field("num_experts_per_tok"),
            width=field("moe_intermediate_size"),
            normalise=llm.get("norm_topk_prob", True),
        )

    return MoTConfig(
        vocab_size=llm["vocab_size"],
        width=llm["hidden_size"],
        depth=llm["num_hidden_layers"],
        heads=llm["num_attention_heads"],
        kv_heads=llm["num_key_value_heads"],
        head_dim=llm["head_dim"],
        ffn_width=llm["intermediate_size"],
        und_experts=experts(""),
        gen_experts=experts("gen_"),
        norm_eps=llm["rms_norm_eps"],
        rope_theta=llm["rope_theta"],
        rope_theta_hw=llm["rope_theta_hw"],
        rope_theta_vision=vision["rope_theta_vision"],
        patch=vision["patch_size"],
        vision_width=vision["hidden_size"],
        head="conv" if published.get("use_pixel_head") else "linear",
        head_width=head[0] if head else 4096,
        noise_scale_max=published["noise_scale_max_value"],
    )
