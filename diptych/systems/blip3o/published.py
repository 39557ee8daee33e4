"""Folders in the published layout of BLIP3-o, in and out: a Qwen2.5-VL of an older transformers with queries
and transformer among its weights, and a decoder of diffusers beside them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diptych.encoders.pictures import ChatPictures, qwen_pictures
from diptych.encoders.vlm import VisionLanguage
from diptych.family import OpenSystem
from diptych.files import weights as weight_files
from diptych.files.folder import ModelFolderError, check_depth, check_shapes, read_config, refuse_code
from diptych.files.lineage import child
from diptych.files.typed import convert as typed
from diptych.files.typed import to_json
from diptych.files.weights import Beneath
from diptych.files.whole import whole_folder, write_whole
from diptych.models.connector import Bridge, BridgeConfig
from diptych.models.connector.config import QUERIES
from diptych.models.feature_dit import FeatureDiT, FromPublished, config_of, to_published
from diptych.models.meta import without_storage
from diptych.spaces.detokenizers import UnetDetokenizer
from diptych.spaces.features import FeatureSpace
from diptych.systems.blip3o import DECODER, MODEL_TYPES, NAME
from diptych.systems.blip3o.settings import REQUEST, SAMPLER, blamed_on, is_published
from diptych.systems.blip3o.system import BlipSystem

DIT, QUERY_WEIGHTS = "model.dit.model.", "model.latent_queries"
TOWER = "model.gen_vision_tower."
"""What made the targets of training, in folders that training code has saved: not used for drawing."""
MARK = "[IMG]"
"""Token behind which queries stand."""

SIDE = 8
"""Vectors a side: fixed in the published code."""
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message.role != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message.role }}\n{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for part in message.content %}{% if part.type == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The chat of the published code, for a tokenizer that was saved without."""
_TEXT = [
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "use_cache",
    "use_sliding_window",
    "sliding_window",
    "max_window_layers",
    "attention_dropout",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
]
"""Fields of the language model, which stand at the top level."""
_MARKS = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")


def load_published(
    folder: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> BlipSystem:
    """Raises ModelFolderError for a folder that is not whole, or of BLIP3o-NEXT, which has no such
    transformer."""
    refuse_code(folder)
    with blamed_on(folder):
        values = read_config(folder)
        if "diffusion_name_or_path" in values:
            raise ModelFolderError(
                f"{folder} is of BLIP3o-NEXT, which draws by discrete picture tokens: that is not read"
            )
        stored = weight_files.open_weights(folder)
        names = [name for name in stored if not name.startswith(TOWER)]
        check_depth(values, names, str(folder / "config.json"))
        shapes = stored.shapes()
        language = _language(folder, values, stored, [n for n in names if _now(n) is not None], dtype)
        config = config_of({n.removeprefix(DIT): s for n, s in shapes.items() if n.startswith(DIT)})
        with without_storage():
            model = FeatureDiT(config)
        expected = {name: tuple(empty.shape) for name, empty in model.state_dict().items()}
        found = FromPublished(Beneath(stored, DIT), list(expected))
        tensors = {name: _cast(found[name], dtype) for name in expected}
        check_shapes(expected, {name: tuple(t.shape) for name, t in tensors.items()}, str(folder))
        model.load_state_dict(tensors, assign=True)
        if len(shapes.get(QUERY_WEIGHTS, ())) != 3:
            raise ModelFolderError(f"{folder}: the weights have no {QUERY_WEIGHTS} (1, queries, channels)")
        _, queries, inputs = shapes[QUERY_WEIGHTS]
        with without_storage():
            bridge = Bridge(BridgeConfig(kind=QUERIES, inputs=inputs, queries=queries))
        bridge.load_state_dict({"queries": _cast(stored[QUERY_WEIGHTS], dtype)}, assign=True)
        decoder = UnetDetokenizer.load(folder / DECODER, dtype)
        tower = str(values.get("gen_vision_tower"))
        space = FeatureSpace(
            None, SIDE, decoder.native, detokenizer=decoder, channels=config.channels, made_by=tower
        )
        card = {"name": folder.name, "family": NAME, "parents": [], "weights": "published"}
        system = BlipSystem(model, bridge, language, space, SAMPLER, decoder.native, card)
    return system.to(device)


def _language(
    folder: Path,
    values: Mapping[str, Any],
    stored: weight_files.Weights,
    names: list[str],
    dtype: torch.dtype | None,
) -> VisionLanguage:
    if not (folder / "tokenizer.json").is_file():
        raise ModelFolderError(f"{folder} has no tokenizer.json")
    from transformers import (
        AutoTokenizer,
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2VLImageProcessorPil,
    )

    text = {name: values[name] for name in _TEXT if name in values}
    # the older transformers has the base beside the kind of scaling, the newer one in it
    scaling = typed(dict[str, Any], values.get("rope_scaling"), "rope_scaling")
    text["rope_parameters"] = {**scaling, "rope_theta": values.get("rope_theta", 1e6)}
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config=typed(dict[str, Any], values.get("vision_config"), "vision_config"),
        tie_word_embeddings=bool(values.get("tie_word_embeddings", False)),
        **{name: values[name] for name in _MARKS if name in values},
    )
    kind: Any = Qwen2_5_VLForConditionalGeneration
    with without_storage():
        empty = kind(config)
    tied = set(empty.all_tied_weights_keys or ())
    expected = {n: tuple(t.shape) for n, t in empty.state_dict().items() if n not in tied}
    shapes = stored.shapes()
    held = {new: shapes[old] for old in names if (new := _now(old)) not in tied and new is not None}
    check_shapes(expected, held, str(folder / "config.json"))
    state = {new: stored[old] for old in names if (new := _now(old)) is not None}
    model, found = kind.from_pretrained(
        None, config=config, state_dict=state, dtype=dtype or _dtype(state), output_loading_info=True
    )
    if found["missing_keys"]:
        raise ModelFolderError(f"{folder}: the weights lack {sorted(found['missing_keys'])[0]}")
    # told the config: the folder's own names a class that is not there
    tokenizer = AutoTokenizer.from_pretrained(
        folder, config=config, local_files_only=True, trust_remote_code=False
    )
    tokenizer.chat_template = tokenizer.chat_template or TEMPLATE
    known: Any = tokenizer.convert_tokens_to_ids([MARK])
    (mark,) = known
    if mark is None or mark == tokenizer.unk_token_id:
        raise ModelFolderError(f"{folder}: the tokenizer has no {MARK}")
    # the folder has none of its own: the published code takes that of the language model's repository
    pictures: ChatPictures = qwen_pictures(Qwen2VLImageProcessorPil(), tokenizer, config)
    return VisionLanguage(model, tokenizer, pictures, REQUEST, mark)


def _now(name: str) -> str | None:
    """Of a weight of the language model, its name in a newer transformers; None for what is none of it."""
    if name.startswith("visual."):
        return f"model.{name}"
    if name.startswith(("model.embed_tokens.", "model.layers.", "model.norm.")):
        return name.replace("model.", "model.language_model.", 1)
    return name if name == "lm_head.weight" else None


def _then(name: str) -> str:
    """The way back."""
    return name.replace("model.language_model.", "model.", 1).replace("model.visual.", "visual.", 1)


def _dtype(state: Mapping[str, Tensor]) -> torch.dtype:
    return next(iter(state.values())).dtype


def _cast(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    return tensor if dtype is None else tensor.to(dtype)


def convert(source: Path, out: Path, form: str, open_system: OpenSystem) -> list[str]:
    """Write the folder `source` as `form` ('diptych' or 'blip3o'). `out` appears whole or not at all. Raises
    ModelFolderError or ValueError for what cannot be converted."""
    if form not in ("diptych", "blip3o"):
        raise ValueError(f"the form must be 'diptych' or 'blip3o', got {form!r}")
    from diptych.systems.blip3o.parts import load

    system = load(source, open_system)
    with whole_folder(out) as folder:
        if form == "blip3o":
            write_published(system, folder)
            if is_published(source):
                _leave(source, folder)
            return []
        command = f"diptych convert {source} {out} --to {form}"
        system.card = child(system.card, source.name, out.name, "converted", command)
        system.save(folder)
    return []


def _leave(source: Path, folder: Path) -> None:
    """What a published folder holds besides, as it is."""
    for name in ("generation_config.json", "merges.txt", "vocab.json", "added_tokens.json"):
        if (source / name).is_file() and not (folder / name).is_file():
            shutil.copyfile(source / name, folder / name)


def write_published(system: BlipSystem, folder: Path) -> None:
    """Write a system of the published make. Raises ValueError for one of another."""
    language, decoder = system.backbone, getattr(system.space, "detokenizer", None)
    made = (
        isinstance(language, VisionLanguage)
        and language.model.config.model_type == "qwen2_5_vl"
        and isinstance(system.model, FeatureDiT)
        and system.bridge.config.kind == QUERIES
        and isinstance(system.space, FeatureSpace)
        and system.space.mean is None
        and system.space.facts.side == SIDE
        and isinstance(decoder, UnetDetokenizer)
    )
    if not made:
        raise ValueError(
            "the published layout holds a Qwen2.5-VL, queries within its sequence, a transformer over 8 x 8 "
            "raw features and an SDXL decoder; this model is made of other parts"
        )
    assert isinstance(language, VisionLanguage)
    assert isinstance(system.space, FeatureSpace)
    assert isinstance(decoder, UnetDetokenizer)
    tied = set(language.model.all_tied_weights_keys or ())
    weights = {_then(n): t for n, t in language.model.state_dict().items() if n not in tied}
    weights |= {f"{DIT}{n}": t for n, t in to_published(system.model.state_dict()).items()}
    weights[QUERY_WEIGHTS] = system.bridge.state_dict()["queries"]
    decoder.save(folder / DECODER)
    language.tokenizer.save_pretrained(folder)
    values = _config(language.model.config, system.bridge.config.queries, system.space)
    write_whole(folder / "config.json", to_json(values))
    layout = {name: tensor.to("meta") for name, tensor in weights.items()}
    weight_files.write_tensors(folder / "model.safetensors", layout, weights.__getitem__)


def _config(config: Any, queries: int, space: FeatureSpace) -> dict[str, Any]:
    text, vision = config.get_text_config().to_dict(), config.vision_config.to_diff_dict()
    rotation = dict(text["rope_parameters"])
    theta = rotation.pop("rope_theta", 1e6)
    return {
        "architectures": ["blip3oQwenForCausalLM"],
        "model_type": MODEL_TYPES[0],
        **{name: text[name] for name in _TEXT if text.get(name) is not None},
        "rope_theta": theta,
        "rope_scaling": rotation,
        **{name: getattr(config, name) for name in _MARKS},
        "tie_word_embeddings": bool(config.tie_word_embeddings),
        "vision_config": {**vision, "model_type": config.model_type},
        "gen_hidden_size": space.channels,
        "gen_pooling": f"early_pool2d_{32 // SIDE}",
        "gen_vision_tower": space.facts.made_by,
        "n_query": queries,
        # where they are missing, the published code adds tokens that no weight has a row for
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
    }
