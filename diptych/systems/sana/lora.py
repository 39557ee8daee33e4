"""LoRA files of the linear DiT in the key styles of peft, diffusers and kohya, from and to our modules.

Ours keeps q, k and v as one matrix; there they are apart. Three adapters of rank r become one of rank 3r
whose second matrix is block-diagonal, and one becomes three that share their first matrix: both exact.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from diptych.models.linear_dit.convert import DIFFUSERS_BLOCK

STYLES = ("peft", "diffusers", "kohya")
_PREFIX = {"peft": "base_model.model.", "diffusers": "transformer.", "kohya": "lora_unet_"}
_DOWN_UP = {
    "peft": ("lora_A.weight", "lora_B.weight"),
    "diffusers": ("lora_A.weight", "lora_B.weight"),
    "kohya": ("lora_down.weight", "lora_up.weight"),
}
# norms and tables take no adapters
_MODULES = {
    ours: theirs.split()
    for ours, theirs in DIFFUSERS_BLOCK.items()
    if not ours.endswith("_norm") and ours != "table"
}

Adapters = dict[str, tuple[Tensor, Tensor]]
"""Our module name -> A (rank, in) and B (out, rank), the scale alpha / rank folded into B."""


def read_lora(weights: Mapping[str, Tensor]) -> Adapters:
    """Adapters of a file in any of the three styles. Raises ValueError for a key that belongs to no module of
    SANA."""
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in weights.items():
        module, kind = _split(key)
        parts.setdefault(module, {})[kind] = tensor
    singles: dict[str, tuple[Tensor, Tensor]] = {}
    for module, found in parts.items():
        if not {"down", "up"} <= set(found):
            raise ValueError(f"the LoRA file has only half of the adapter of {module}")
        # adapters of 1x1 convolutions have two axes more, of length one
        down, up = found["down"].float().flatten(1), found["up"].float().flatten(1)
        # files without alpha are meant at scale 1, that is alpha = rank
        alpha = float(found["alpha"]) if "alpha" in found else float(len(down))
        singles[module] = (down, up * (alpha / len(down)))
    return _ours(singles)


def _split(key: str) -> tuple[str, str]:
    """(diffusers module name, 'down', 'up' or 'alpha') of a file's key."""
    for style in STYLES:
        down, up = _DOWN_UP[style]
        for ending, kind in ((f".{down}", "down"), (f".{up}", "up"), (".alpha", "alpha")):
            if key.startswith(_PREFIX[style]) and key.endswith(ending):
                name = key.removeprefix(_PREFIX[style]).removesuffix(ending)
                module = _from_kohya(name) if style == "kohya" else name.removeprefix("transformer.")
                if (
                    re.fullmatch(r"transformer_blocks\.\d+\..+", module)
                    and module.split(".", 2)[2] in _THEIRS
                ):
                    return module, kind
    raise ValueError(f"{key!r} is no key of a LoRA for SANA in the style of {', '.join(STYLES)}")


_THEIRS = {theirs: (ours, place) for ours, names in _MODULES.items() for place, theirs in enumerate(names)}


def _from_kohya(name: str) -> str:
    """Dots from underscores, by the modules that there are."""
    found = re.fullmatch(r"transformer_blocks_(\d+)_(.+)", name)
    # kohya writes underscores for dots, and module names have underscores of their own: only a look at all of
    # them tells which were dots
    for module in _THEIRS:
        if found and module.replace(".", "_") == found[2]:
            return f"transformer_blocks.{found[1]}.{module}"
    return name


def _ours(singles: Mapping[str, tuple[Tensor, Tensor]]) -> Adapters:
    groups: dict[str, dict[int, tuple[Tensor, Tensor]]] = {}
    for module, pair in singles.items():
        _, number, theirs = module.split(".", 2)
        ours, place = _THEIRS[theirs]
        groups.setdefault(f"blocks.{number}.{ours}", {})[place] = pair
    adapters = {}
    for name, pairs in groups.items():
        count = len(_MODULES[name.split(".", 2)[2]])
        out = next(iter(pairs.values()))[1].shape[0]
        # a part without an adapter keeps rows of zeros
        ups = [pairs[place][1] if place in pairs else torch.zeros(out, 0) for place in range(count)]
        downs = [pairs[place][0] for place in range(count) if place in pairs]
        adapters[name] = (torch.cat(downs), torch.block_diag(*ups))
    return adapters


def write_lora(adapters: Mapping[str, tuple[Tensor, Tensor]], style: str) -> dict[str, Tensor]:
    """A file's tensors in a style; the scale is 1 (alpha = rank). Raises ValueError for a style that there is
    not."""
    if style not in STYLES:
        raise ValueError(f"the LoRA style must be one of {', '.join(STYLES)}, got {style!r}")
    tensors = {}
    for name, (down, up) in adapters.items():
        _, number, ours = name.split(".", 2)
        names = _MODULES[ours]
        convolution = names[0].startswith("ff.conv")
        for theirs, part in zip(names, up.chunk(len(names)), strict=True):
            module = f"transformer_blocks.{number}.{theirs}"
            key = _PREFIX[style] + (module.replace(".", "_") if style == "kohya" else module)
            pair = [matrix[..., None, None] if convolution else matrix for matrix in (down, part)]
            for ending, matrix in zip(_DOWN_UP[style], pair, strict=True):
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
    for name, (down, up) in adapters.items():
        weight = weights.get(f"{name}.weight")
        if weight is None:
            raise ValueError(
                f"the LoRA has an adapter for {name}, which this model does not have: it is for a deeper "
                "model"
            )
        if weight.shape != (up.shape[0], down.shape[1]):
            raise ValueError(
                f"the LoRA's adapter of {name} is for a matrix of {(up.shape[0], down.shape[1])}, here "
                f"it is {tuple(weight.shape)}: it is for "
                "another size"
            )
    for name, (down, up) in adapters.items():
        weight = weights[f"{name}.weight"]
        weight.add_((strength * up @ down).to(weight))
