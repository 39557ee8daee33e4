"""LoRA files of the linear DiT in the key styles that are about, from and to our modules.

Ours keeps q, k and v as one matrix; there they are apart. Three adapters of rank r become one of rank 3r
whose second matrix is block-diagonal, and one becomes three that share their first matrix: both exact.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from diptych.files.fields import HARMLESS, HONOURED, Fields, check_fields, only, table
from diptych.files.typed import convert, parse, read_json
from diptych.models.linear_dit.convert import DIFFUSERS, DIFFUSERS_BLOCK, DIFFUSERS_GUIDED

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
WHOLE = (torch.int64, torch.int32)
STYLES = ("peft", "diffusers", "kohya")
_PREFIX = {"peft": "base_model.model.", "diffusers": "transformer.", "kohya": "lora_unet_"}
_DOWN_UP = {
    "peft": ("lora_A.weight", "lora_B.weight"),
    "diffusers": ("lora_A.weight", "lora_B.weight"),
    "kohya": ("lora_down.weight", "lora_up.weight"),
}
_DOTTED = ("base_model.model.", "transformer.", "diffusion_model.")
_UNDERSCORED = ("lora_unet_", "lora_transformer_")
# peft names the adapter between the matrix and 'weight', where it has not stripped it
_MATRIX = re.compile(r"(.+)\.(lora_A|lora_B|lora_down|lora_up|lora\.down|lora\.up)(?:\.(\w+))?\.weight")
_DORA = re.compile(r"(.+)\.(?:lora_magnitude_vector|dora_scale|magnitude)(?:\..+)?")
MAX_REPEATS = 3
"""Repeats in a pattern of module names."""
METADATA, CONFIG = "lora_adapter_metadata", "adapter_config.json"
"""Where diffusers and peft keep alpha: an entry of the file's header, a file beside it."""
FIELDS: Fields = {
    **table(HONOURED, "r lora_alpha rank_pattern alpha_pattern use_rslora"),
    # which matrices have adapters is told by the tensors; how they learn is over
    **table(
        HARMLESS,
        """task_type auto_mapping peft_version base_model_name_or_path revision inference_mode target_modules
        exclude_modules lora_dropout layers_to_transform layers_pattern megatron_config megatron_core
        loftq_config eva_config qalora_group_size runtime_config ensure_weight_tying""",
    ),
    "peft_type": only("LORA"),
    # others change the base weights before training, and the file is of the changed ones
    "init_lora_weights": only(True, False, "gaussian", "orthogonal", "eva"),
    **table(only(False), "fan_in_fan_out use_dora use_qalora lora_bias"),
    "use_bdlora": only(None, False),
    "bias": only("none"),
    **table(
        only(None),
        """modules_to_save trainable_token_indices corda_config lora_ga_config velora_config
        alora_invocation_tokens monteclora_config layer_replication target_parameters arrow_config
        kasa_config""",
    ),
}
"""Of peft's LoraConfig, which diffusers stores as well."""
# norms and tables take no adapters
_BLOCK = {
    ours: theirs.split()
    for ours, theirs in DIFFUSERS_BLOCK.items()
    if not ours.endswith("_norm") and ours != "table"
}
_TOP = {ours: theirs for ours, theirs in DIFFUSERS.items() if ours not in ("caption_norm", "head_table")}
_THEIRS = {theirs: (ours, place) for ours, names in _BLOCK.items() for place, theirs in enumerate(names)}
_TOP_THEIRS = {theirs: ours for names in (_TOP, DIFFUSERS_GUIDED) for ours, theirs in names.items()}
_DEPTHWISE = "feed_forward.depthwise"

Adapters = dict[str, tuple[Tensor, Tensor]]
"""Our module name -> A (rank, in) and B (out, rank), the scale alpha / rank folded into B. A of the patch
embedding keeps its kernel (rank, channels, patch, patch), which a file needs again."""


def settings_of(path: Path) -> dict[str, Any]:
    """What a LoRA file says of its scales apart from its tensors: in its header, as diffusers writes it, or
    in peft's config beside it; {} for neither. Raises ValueError for settings that are not honoured here."""
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(METADATA)
        if header is not None:
            where = f"{path}: {METADATA}"
            values = convert(dict[str, Any], parse(header, where), where)
            # a pipeline's adapters stand together, by the part that they are for
            values = {
                name.removeprefix("transformer."): value
                for name, value in values.items()
                if name.startswith("transformer.") or "." not in name
            }
            return _checked(values, where)
    beside = path.with_name(CONFIG)
    if path.stem == "adapter_model" and beside.is_file():
        return _checked(convert(dict[str, Any], read_json(beside), str(beside)), str(beside))
    return {}


def _checked(values: dict[str, Any], where: str) -> dict[str, Any]:
    # peft writes empty lists and objects for what is off
    check_fields({name: value for name, value in values.items() if value not in ([], {})}, FIELDS, where)
    return {
        "r": convert(int, values.get("r", 8), f"{where}: r"),
        "lora_alpha": convert(float, values.get("lora_alpha", 8), f"{where}: lora_alpha"),
        "rank_pattern": convert(dict[str, int], values.get("rank_pattern") or {}, f"{where}: rank_pattern"),
        "alpha_pattern": convert(
            dict[str, float], values.get("alpha_pattern") or {}, f"{where}: alpha_pattern"
        ),
        "use_rslora": convert(bool, values.get("use_rslora") or False, f"{where}: use_rslora"),
    }


def read_lora(weights: Mapping[str, Tensor], settings: Mapping[str, Any] | None = None) -> Adapters:
    """Adapters of a file in any of the styles; `settings` as `settings_of` gives them. Raises ValueError for
    a key that belongs to no module of SANA, and for adapters that are no plain products of two matrices."""
    if not weights:
        raise ValueError("the LoRA file holds no adapters")
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in weights.items():
        module, kind = _split(key)
        # alpha may be stored as a whole number
        if tensor.dtype not in FLOATS and not (kind == "alpha" and tensor.dtype in WHOLE):
            raise ValueError(
                f"{key!r}: the LoRA file holds numbers of type {tensor.dtype}, which is not read"
            )
        if not tensor.isfinite().all():
            raise ValueError(f"{key!r}: the LoRA file holds what is no finite number")
        found = parts.setdefault(module, {})
        if kind in found:
            raise ValueError(f"the LoRA file has several adapters of {module}, among them {key!r}")
        found[kind] = tensor
    singles: dict[str, tuple[Tensor, Tensor]] = {}
    for module, found in parts.items():
        if not {"down", "up"} <= set(found):
            raise ValueError(f"the LoRA file has only half of the adapter of {module}")
        # adapters of convolutions have two axes more; the second of the two is 1x1
        down, up = found["down"].float(), found["up"].float()
        if {down.ndim, up.ndim} - {2, 4} or up[0].numel() != len(down) or not down.numel() or not up.numel():
            raise ValueError(
                f"the LoRA's adapter of {module} has factors of {tuple(down.shape)} and {tuple(up.shape)}, "
                "which have no product"
            )
        if module != DIFFUSERS["patch_embed"]:
            # a larger kernel may have as many values as the matrix, in another order
            if down[0].numel() != down.shape[1]:
                raise ValueError(f"the LoRA's adapter of {module} has a kernel, {tuple(down.shape)}, not 1x1")
            down = down.flatten(1)
        up = up.flatten(1) * _scale(module, len(down), found.get("alpha"), settings or {})
        if not up.isfinite().all():
            raise ValueError(f"the LoRA's alpha of {module} is too large for float32")
        singles[module] = (down, up)
    return _ours(singles)


def _scale(module: str, rank: int, alpha: Tensor | None, settings: Mapping[str, Any]) -> float:
    """What an adapter's product is multiplied by."""
    if alpha is not None:
        if settings:
            raise ValueError(f"the LoRA file gives alpha twice: for {module} by itself, and in its settings")
        if alpha.numel() != 1 or not math.isfinite(float(alpha)):
            raise ValueError(f"the LoRA's alpha of {module} is no finite number")
        return float(alpha) / rank
    if not settings:
        # files without alpha are meant at scale 1, that is alpha = rank
        return 1.0
    told = _by_pattern(settings["rank_pattern"], module, settings["r"])
    if told != rank:
        raise ValueError(f"the LoRA's settings give {module} the rank {told}, its matrices have {rank}")
    scale: float = _by_pattern(settings["alpha_pattern"], module, settings["lora_alpha"])
    # rank-stabilised (arXiv 2312.03732)
    return scale / math.sqrt(rank) if settings["use_rslora"] else scale / rank


def _by_pattern(patterns: Mapping[str, Any], module: str, otherwise: Any) -> Any:
    # patterns are regular expressions that peft puts behind any beginning
    for pattern, value in patterns.items():
        # a repeated group, or many repeats, can take longer than anyone lives
        if re.search(r"\)[*+{]", pattern) or len(re.findall(r"[*+{]", pattern)) > MAX_REPEATS:
            raise ValueError(
                f"the LoRA's pattern {pattern!r} repeats a group, or has more than {MAX_REPEATS} repeats: "
                "it is not read"
            )
        try:
            if re.match(rf"(.*\.)?({pattern})$", module):
                return value
        except re.error as error:
            raise ValueError(f"the LoRA's pattern {pattern!r} is no regular expression ({error})") from error
    return otherwise


def _split(key: str) -> tuple[str, str]:
    """(diffusers module name, 'down', 'up' or 'alpha') of a file's key."""
    if _DORA.fullmatch(key):
        raise ValueError(f"{key!r}: the LoRA file is a DoRA, whose magnitudes are not merged here")
    found = _MATRIX.fullmatch(key)
    if found:
        name, kind = found[1], "down" if found[2] in ("lora_A", "lora_down", "lora.down") else "up"
    elif key.endswith(".alpha"):
        name, kind = key.removesuffix(".alpha"), "alpha"
    elif key.endswith(".bias") or key.endswith((".diff_b", ".diff")):
        raise ValueError(f"{key!r}: the LoRA file changes more than matrices, which is not merged here")
    else:
        raise ValueError(_unknown(key))
    for prefix in _UNDERSCORED:
        if name.startswith(prefix):
            name = _from_underscores(name.removeprefix(prefix))
    # peft's own prefix stands before a pipeline's
    for prefix in _DOTTED:
        name = name.removeprefix(prefix)
    block = re.fullmatch(r"transformer_blocks\.(?:0|[1-9]\d{0,5})\.(.+)", name)
    if not (name in _TOP_THEIRS or (block and block[1] in _THEIRS)):
        raise ValueError(_unknown(key))
    if block and _THEIRS[block[1]][0] == _DEPTHWISE:
        raise ValueError(f"{key!r}: adapters of depthwise convolutions are no products of matrices")
    return name, kind


def _unknown(key: str) -> str:
    return f"{key[:200]!r} is no key of a LoRA for SANA in the style of {', '.join(STYLES)}"


def _from_underscores(name: str) -> str:
    """Dots from underscores, by the modules that there are."""
    # underscores stand for dots there, and module names have underscores of their own: only a look at all of
    # them tells which were dots
    for module in _TOP_THEIRS:
        if module.replace(".", "_") == name:
            return module
    found = re.fullmatch(r"transformer_blocks_(\d+)_(.+)", name)
    for module in _THEIRS:
        if found and module.replace(".", "_") == found[2]:
            return f"transformer_blocks.{found[1]}.{module}"
    return name


def _ours(singles: Mapping[str, tuple[Tensor, Tensor]]) -> Adapters:
    groups: dict[str, dict[int, tuple[Tensor, Tensor]]] = {}
    adapters = {}
    for module, pair in singles.items():
        if module in _TOP_THEIRS:
            adapters[_TOP_THEIRS[module]] = pair
            continue
        _, number, theirs = module.split(".", 2)
        ours, place = _THEIRS[theirs]
        groups.setdefault(f"blocks.{number}.{ours}", {})[place] = pair
    for name, pairs in groups.items():
        count = len(_BLOCK[name.split(".", 2)[2]])
        sizes = {(up.shape[0], down.shape[1]) for down, up in pairs.values()}
        if len(sizes) > 1:
            found = " and ".join(str(size) for size in sorted(sizes))
            raise ValueError(f"the LoRA's adapters of {name} are for matrices of {found}, which lie in one")
        out = next(iter(pairs.values()))[1].shape[0]
        # a part without an adapter keeps rows of zeros
        ups = [pairs[place][1] if place in pairs else torch.zeros(out, 0) for place in range(count)]
        downs = [pairs[place][0] for place in range(count) if place in pairs]
        adapters[name] = (torch.cat(downs), torch.block_diag(*ups))
    return adapters


def write_lora(
    adapters: Mapping[str, tuple[Tensor, Tensor]], style: str, guided: bool = False
) -> dict[str, Tensor]:
    """A file's tensors in a style; the scale is 1 (alpha = rank). `guided`: for a model that embeds its
    guidance scale, whose time layers have other names. Raises ValueError for a style that there is not, and
    for an adapter that has no form there."""
    if style not in STYLES:
        raise ValueError(f"the LoRA style must be one of {', '.join(STYLES)}, got {style!r}")
    top = {**_TOP, **(DIFFUSERS_GUIDED if guided else {})}
    tensors = {}
    for name, (down, up) in adapters.items():
        beginning, ours = "", name
        if name.startswith("blocks."):
            _, number, ours = name.split(".", 2)
            beginning = f"transformer_blocks.{number}."
        names = _BLOCK.get(ours) if beginning else [top[ours]] if ours in top else None
        if names is None or ours == _DEPTHWISE:
            raise ValueError(f"an adapter of {name} has no form in a LoRA file")
        flat = names[0].startswith("ff.conv")
        for theirs, part in zip(names, up.chunk(len(names)), strict=True):
            module = beginning + theirs
            key = _PREFIX[style] + (module.replace(".", "_") if style == "kohya" else module)
            # the second product of a convolution is one of 1x1; so is the first, where its kernel is
            first = down[..., None, None] if flat else down
            second = part[..., None, None] if first.ndim == 4 else part
            for ending, matrix in zip(_DOWN_UP[style], (first, second), strict=True):
                # q, k and v share their first matrix here; safetensors refuses tensors that share memory
                tensors[f"{key}.{ending}"] = matrix.contiguous().clone()
            if style == "kohya":
                tensors[f"{key}.alpha"] = torch.tensor(float(len(down)))
    return tensors


@torch.no_grad()
def merge_adapters(model: nn.Module, adapters: Adapters, strength: float = 1.0) -> None:
    """Add adapters into a model's matrices, in place. Raises ValueError where they are for a model of another
    size; then nothing was changed."""
    # two passes: all shapes are checked before the first weight changes
    weights = dict(model.named_parameters())
    flat = {name: (down.flatten(1), up) for name, (down, up) in adapters.items()}
    for name, (down, up) in flat.items():
        weight = weights.get(f"{name}.weight")
        if weight is None:
            raise ValueError(
                f"the LoRA has an adapter for {name}, which this model does not have: it is for a deeper "
                "model, or one of another kind"
            )
        # the kernel of a convolution is a matrix of its patches
        if weight.flatten(1).shape != (up.shape[0], down.shape[1]):
            raise ValueError(
                f"the LoRA's adapter of {name} is for a matrix of {(up.shape[0], down.shape[1])}, here "
                f"it is {tuple(weight.shape)}: it is for another size"
            )
    for name, (down, up) in flat.items():
        weight = weights[f"{name}.weight"]
        weight.add_((strength * up @ down).view_as(weight).to(weight))
