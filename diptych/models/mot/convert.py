"""Published SenseNova-U1 weights and config to ours, and back.

Names differ, and convolutions over disjoint patches are linears here: their weights are reshaped, never
changed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from diptych.files.fields import HARMLESS, HONOURED, NEEDED, Fields, check_fields, only, table
from diptych.files.folder import check_depth
from diptych.files.typed import convert
from diptych.flow import FlowConfig, NoiseLaw, Objective
from diptych.models.mot.config import Experts, MoTConfig

T = TypeVar("T")

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
}
_HEADS = {
    "linear": {"fm_modules.fm_head.0": "pixel_head.first", "fm_modules.fm_head.2": "pixel_head.second"},
    "conv": {"fm_modules.fm_head.conv1": "pixel_head.first", "fm_modules.fm_head.conv2": "pixel_head.second"},
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
_SIZES = {
    "vocab_size": "vocab_size",
    "width": "hidden_size",
    "depth": "num_hidden_layers",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "ffn_width": "intermediate_size",
}
_EXPERT = {"gate_proj": "gate", "up_proj": "up", "down_proj": "down"}
_TOP_BACK = {
    head: {ours: theirs for theirs, ours in (_TOP | names).items()} for head, names in _HEADS.items()
}
_LAYER_BACK = {ours: theirs for theirs, ours in _LAYER.items()}
_EXPERT_BACK = {ours: theirs for theirs, ours in _EXPERT.items()}


# what a dumped config of a language model says of writing text with it, of its class and of its making
_OF_ITS_CLASS = table(
    HARMLESS,
    """architectures auto_map model_type torch_dtype dtype transformers_version return_dict
    output_hidden_states output_attentions torchscript use_bfloat16 tf_legacy_loss pruned_heads
    chunk_size_feed_forward is_decoder is_encoder_decoder cross_attention_hidden_size
    add_cross_attention tie_encoder_decoder max_length min_length do_sample early_stopping num_beams
    num_beam_groups diversity_penalty temperature top_k top_p typical_p repetition_penalty
    length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids num_return_sequences
    output_scores return_dict_in_generate forced_bos_token_id forced_eos_token_id remove_invalid_values
    exponential_decay_length_penalty suppress_tokens begin_suppress_tokens finetuning_task id2label
    label2id tokenizer_class prefix bos_token_id pad_token_id eos_token_id sep_token_id
    decoder_start_token_id task_specific_params problem_type initializer_range use_cache
    attn_implementation""",
)
_WRITTEN_BY = "4.37.2"
"""The version that published configs name."""
FIELDS: Fields = {
    **_OF_ITS_CLASS,
    # drawing is always by the standard times there
    **table(
        HARMLESS,
        """patch_size min_pixels max_pixels time_shift_type base_shift max_shift base_image_seq_len
        max_image_seq_len fm_head_dim fm_head_mlp_ratio extra_num_layers_post use_backbone_lora use_llm_lora
        use_deepep pure_llm""",
    ),
    **table(
        NEEDED,
        """llm_config vision_config use_pixel_head noise_scale noise_scale_mode noise_scale_max_value
        noise_scale_base_image_seq_len""",
    ),
    **table(HONOURED, "P_mean P_std t_eps timestep_shift"),
    "template": only("neo1_0"),
    "downsample_ratio": only(0.5),
    "use_adaLN": only(False),
    # with more, the head is another one, which the public code cannot run either
    "fm_head_layers": only(2, 1),
    "concat_time_token_num": only(0),
    "add_noise_scale_embedding": only(True, absent=False),
    "time_schedule": only("standard"),
    "tie_word_embeddings": only(False),
}
LLM_FIELDS: Fields = {
    **_OF_ITS_CLASS,
    **table(
        HARMLESS,
        """max_position_embeddings max_position_embeddings_hw max_window_layers router_aux_loss_coef
        output_router_logits use_deepep layer_types""",
    ),
    **table(
        NEEDED,
        """vocab_size hidden_size num_hidden_layers num_attention_heads num_key_value_heads head_dim
        intermediate_size rms_norm_eps rope_theta rope_theta_hw""",
    ),
    **table(
        HONOURED,
        """num_experts num_experts_per_tok moe_intermediate_size norm_topk_prob gen_num_experts
        gen_num_experts_per_tok gen_moe_intermediate_size""",
    ),
    "hidden_act": only("silu"),
    "attention_bias": only(False),
    "attention_dropout": only(0.0, 0),
    "rope_scaling": only(None),
    "sliding_window": only(None),
    "use_sliding_window": only(False),
    "tie_word_embeddings": only(False),
    "mlp_only_layers": only([], None),
    "decoder_sparse_step": only(1),
}
VISION_FIELDS: Fields = {
    **_OF_ITS_CLASS,
    **table(
        HARMLESS, "llm_hidden_size max_position_embeddings_vision min_pixels max_pixels attention_dropout"
    ),
    **table(NEEDED, "patch_size hidden_size rope_theta_vision"),
    "num_channels": only(3),
    "downsample_ratio": only(0.5),
}


def our_name(published: str, head: str) -> str:
    """'language_model.model.layers.3.mlp_mot_gen.up_proj.weight' -> 'blocks.3.gen.ffn.up.weight'; `head` as
    in the config.

    Raises ValueError for a name that the family does not have.
    """
    module, _, leaf = published.rpartition(".")
    top = _TOP | _HEADS[head]
    if module in top:
        return f"{top[module]}.{leaf}"
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
    raise ValueError(f"{published!r} is not a weight of the mixture of transformers with a {head} head")


def published_name(ours: str, head: str) -> str:
    """Inverse of `our_name`."""
    module, _, leaf = ours.rpartition(".")
    if module in _TOP_BACK[head]:
        return f"{_TOP_BACK[head][module]}.{leaf}"
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


def read_tensor(ours: str, tensor: Tensor) -> Tensor:
    """A published tensor as the one of ours of this name."""
    if ours.endswith("interface.patches.weight"):
        # (C, 3, row, column) in the order in which `patchify` lays a patch out
        tensor = tensor.flatten(1)
    elif ours.endswith("interface.merge.weight"):
        # (C, vision, row, column) -> (C, row, column, vision): a token's four patches stand one after another
        tensor = tensor.permute(0, 2, 3, 1).flatten(1)
    return tensor.contiguous()


def write_tensor(ours: str, tensor: Tensor, config: MoTConfig) -> Tensor:
    """The tensor of ours of this name as published: bit for bit the inverse of `read_tensor`."""
    if ours.endswith("interface.patches.weight"):
        tensor = tensor.unflatten(1, (3, config.patch, config.patch))
    elif ours.endswith("interface.merge.weight"):
        tensor = tensor.unflatten(1, (2, 2, config.vision_width)).permute(0, 3, 1, 2)
    return tensor.contiguous()


def from_published(state: Mapping[str, Tensor], config: MoTConfig) -> dict[str, Tensor]:
    """Published state dict -> ours."""
    names = {our_name(name, config.head): name for name in state}
    return {ours: read_tensor(ours, state[name]) for ours, name in names.items()}


def to_published(state: Mapping[str, Tensor], config: MoTConfig) -> dict[str, Tensor]:
    """Our state dict -> published, bit for bit the inverse of `from_published`."""
    return {
        published_name(name, config.head): write_tensor(name, tensor, config)
        for name, tensor in state.items()
    }


def config_from_published(
    published: Mapping[str, Any], weights: Iterable[tuple[str, tuple[int, ...]]] = ()
) -> MoTConfig:
    """Published config.json -> ours. The head's inner width is no field there: it is read from the weight
    shapes, or the published one without weights.

    Raises ValueError for a setting that would change results here, and for weights of another head or depth.
    """
    check_fields(published, FIELDS, "config.json")
    llm = _read(published, "llm_config", dict[str, Any], "config.json")
    vision = _read(published, "vision_config", dict[str, Any], "config.json")
    check_fields(llm, LLM_FIELDS, "config.json.llm_config")
    check_fields(vision, VISION_FIELDS, "config.json.vision_config")
    shapes = dict(weights)
    # all that decides how many modules are made is looked at before any is
    head = "conv" if _read(published, "use_pixel_head", bool, "config.json") else "linear"
    whole = {ours: _read(llm, theirs, int, "config.json.llm_config") for ours, theirs in _SIZES.items()}
    if shapes:
        check_depth(llm, shapes, "config.json.llm_config")
        _check_layers(shapes, llm)
    first = next(iter(_HEADS[head])) + ".weight"
    if shapes and first not in shapes:
        raise ValueError(
            f"config.json: use_pixel_head is {published['use_pixel_head']}, but the weights have no {first}"
        )
    head_width = shapes[first][0] if shapes else {"linear": 4096, "conv": 1024}[head]
    # as the public code decides; with one expert a layer is an ordinary one
    count = 0 if llm.get("num_experts") is None else _read(llm, "num_experts", int, "config.json.llm_config")
    moe = count > 1 or "moe" in str(llm.get("model_type"))

    def experts(prefix: str) -> Experts | None:
        if not moe:
            return None

        def number(name: str) -> int:
            # what the generation stream does not say for itself it shares with the other
            own = f"{prefix}{name}" if llm.get(f"{prefix}{name}") is not None else name
            return _read(llm, own, int, "config.json.llm_config")

        return Experts(
            count=number("num_experts"),
            per_token=number("num_experts_per_tok"),
            width=number("moe_intermediate_size"),
            normalise=_read(
                {"norm_topk_prob": True, **llm}, "norm_topk_prob", bool, "config.json.llm_config"
            ),
        )

    und, gen = experts(""), experts("gen_")
    return MoTConfig(
        **whole,
        und_experts=und,
        gen_experts=gen,
        norm_eps=_read(llm, "rms_norm_eps", float, "config.json.llm_config"),
        rope_theta=_read(llm, "rope_theta", float, "config.json.llm_config"),
        rope_theta_hw=_read(llm, "rope_theta_hw", float, "config.json.llm_config"),
        rope_theta_vision=_read(vision, "rope_theta_vision", float, "config.json.vision_config"),
        patch=_read(vision, "patch_size", int, "config.json.vision_config"),
        vision_width=_read(vision, "hidden_size", int, "config.json.vision_config"),
        head=head,
        head_width=head_width,
        noise_scale_max=_read(published, "noise_scale_max_value", float, "config.json"),
    )


def _read(values: Mapping[str, Any], name: str, kind: type[T], where: str) -> T:
    """A field of a type. Raises ValueError naming it."""
    if name not in values:
        raise ValueError(f"{where}: {name} is missing")
    return convert(kind, values[name], f"{where}.{name}")


def _check_layers(shapes: Mapping[str, tuple[int, ...]], llm: Mapping[str, Any]) -> None:
    stored = {
        found[1] for name in shapes if (found := re.match(r"language_model\.model\.layers\.(\d+)\.", name))
    }
    if len(stored) != llm["num_hidden_layers"]:
        raise ValueError(
            f"config.json.llm_config: num_hidden_layers is {llm['num_hidden_layers']}, but the weights hold "
            f"{len(stored)} layers"
        )


def flow_from_published(published: Mapping[str, Any]) -> FlowConfig:
    """Noise, its law and the objective of a published config.json. Raises ValueError as
    `config_from_published`."""
    check_fields(published, FIELDS, "config.json")
    usual = {"P_mean": -0.8, "P_std": 0.8, "timestep_shift": 1.0, "t_eps": 0.05}

    def number(name: str) -> float:
        return _read({**usual, **published}, name, float, "config.json")

    # 'dynamic' is another word for 'resolution', and every mode that is none of these means the constant
    modes = {"resolution": "resolution", "dynamic": "resolution", "dynamic_sqrt": "dynamic_sqrt"}
    return FlowConfig(
        noise_scale=number("noise_scale"),
        noise_scale_mode=modes.get(str(published["noise_scale_mode"]), "fixed"),
        noise_scale_base_tokens=_read(published, "noise_scale_base_image_seq_len", int, "config.json"),
        noise_scale_max=number("noise_scale_max_value"),
        # theirs is the law of t = 1 - sigma
        law=NoiseLaw(mean=-number("P_mean"), std=number("P_std"), shift=number("timestep_shift")),
        objective=Objective(sigma_min=number("t_eps")),
    )


def config_to_published(
    config: MoTConfig, flow: FlowConfig, dtype: torch.dtype, end: int, pad: int
) -> dict[str, Any]:
    """Our config -> published config.json: every field that published ones have; `end` and `pad` are the
    numbers of the marks that end a turn and fill a row.

    Raises ValueError naming what a published config has no field for.
    """
    und, gen = config.und_experts, config.gen_experts
    if (und is None) != (gen is None):
        raise ValueError(
            "model.und_experts and model.gen_experts: a published config has experts in both streams or in "
            "none"
        )
    unsaid = {
        "model.scalar_features": (config.scalar_features, 256),
        "model.noise_scale_max": (config.noise_scale_max, flow.noise_scale_max),
        "flow.objective.loss_sigma_min": (flow.objective.loss_sigma_min, None),
        "model.gen_experts.normalise": (gen and gen.normalise, und and und.normalise),
    }
    for name, (value, needed) in unsaid.items():
        if value != needed:
            raise ValueError(
                f"{name} is {value!r}, which a published config cannot say: it must be {needed!r}"
            )
    stored = str(dtype).removeprefix("torch.")
    experts: dict[str, Any] = {}
    if und and gen:
        experts = {
            "num_experts": und.count,
            "num_experts_per_tok": und.per_token,
            "moe_intermediate_size": und.width,
            "gen_num_experts": gen.count,
            "gen_num_experts_per_tok": gen.per_token,
            "gen_moe_intermediate_size": gen.width,
            "norm_topk_prob": und.normalise,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
        }
    llm = {
        "_name_or_path": None,
        "architectures": ["Qwen3MoeForCausalLM" if experts else "Qwen3ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": pad,
        "eos_token_id": end,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "hidden_size": config.width,
        "intermediate_size": config.ffn_width,
        "max_position_embeddings": 262_144,
        "max_position_embeddings_hw": 10_000,
        "max_window_layers": config.depth,
        "model_type": "qwen3_moe" if experts else "qwen3",
        "num_attention_heads": config.heads,
        "num_hidden_layers": config.depth,
        "num_key_value_heads": config.kv_heads,
        "rms_norm_eps": config.norm_eps,
        "rope_scaling": None,
        "rope_theta": config.rope_theta,
        "rope_theta_hw": config.rope_theta_hw,
        "sliding_window": None,
        "torch_dtype": stored,
        "use_cache": False,
        "use_deepep": False,
        "use_sliding_window": False,
        "vocab_size": config.vocab_size,
        "pure_llm": False,
        **experts,
    }
    pixels = {"min_pixels": 65_536, "max_pixels": 16_777_216}
    vision = {
        "architectures": ["NEOVisionModel"],
        "attention_dropout": 0.0,
        "auto_map": {
            "AutoConfig": "configuration_neo_vit.NEOVisionConfig",
            "AutoModel": "modeling_neo_vit.NEOVisionModel",
        },
        "llm_hidden_size": config.width,
        "downsample_ratio": 0.5,
        "hidden_size": config.vision_width,
        "model_type": "neo_vision",
        "rope_theta_vision": config.rope_theta_vision,
        "max_position_embeddings_vision": 10_000,
        "num_channels": 3,
        "patch_size": config.patch,
        "torch_dtype": stored,
        "transformers_version": _WRITTEN_BY,
        **pixels,
    }
    return {
        "architectures": ["NEOChatModel"],
        "auto_map": {
            "AutoConfig": "configuration_neo_chat.NEOChatConfig",
            "AutoModel": "modeling_neo_chat.NEOChatModel",
            "AutoModelForCausalLM": "modeling_neo_chat.NEOChatModel",
        },
        "downsample_ratio": 0.5,
        "eos_token_id": end,
        "llm_config": llm,
        "model_type": "neo_chat",
        "pad_token_id": pad,
        "template": "neo1_0",
        "tie_word_embeddings": False,
        "torch_dtype": stored,
        "transformers_version": _WRITTEN_BY,
        "use_backbone_lora": 0,
        "use_llm_lora": 0,
        **pixels,
        "patch_size": config.patch,
        "timestep_shift": flow.law.shift,
        "time_schedule": "standard",
        "time_shift_type": "exponential",
        "base_shift": 0.5,
        "max_shift": 1.15,
        "base_image_seq_len": 64,
        "max_image_seq_len": 4096,
        "noise_scale_mode": flow.noise_scale_mode,
        "noise_scale_base_image_seq_len": flow.noise_scale_base_tokens,
        "add_noise_scale_embedding": True,
        "noise_scale_max_value": config.noise_scale_max,
        "noise_scale": flow.noise_scale,
        "P_mean": -flow.law.mean,
        "P_std": flow.law.std,
        "t_eps": flow.objective.sigma_min,
        "fm_head_dim": 1536,
        "fm_head_layers": 2,
        "fm_head_mlp_ratio": 1,
        "extra_num_layers_post": 0,
        "concat_time_token_num": 0,
        "use_pixel_head": config.head == "conv",
        "use_adaLN": False,
        "vision_config": vision,
    }
