"""How much smaller than pictures the latents of an autoencoder are, told without loading it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diptych.files.folder import header_shape
from diptych.files.typed import convert, read_json

DEEP_STEM = 32
"""Channels of the first convolution of a tiny autoencoder whose stem halves the picture twice more."""
PUBLISHED_BLOCKS = {"AutoencoderDC": 6, "AutoencoderTiny": 4}
"""Blocks of the encoders of diffusers, where a config does not say."""
MAX_BLOCKS = 10
CAUSAL = ("AutoencoderKLWan", "AutoencoderKLLTXVideo")
"""Causal video autoencoders of diffusers that are read."""
MAX_CHANNELS = 4096


def tiny_factor(channels: int) -> int:
    """Of a tiny autoencoder, by the width of its first convolution: half as wide, it begins the deeper
    stem."""
    return 32 if channels == DEEP_STEM else 8


def causal_sizes(config: Mapping[str, Any], kind: str) -> tuple[int, int, int]:
    """Channels of a causal video autoencoder's latents, px of a side to one latent, and frames to one latent
    frame, but for the first, which is one by itself. Raises ValueError for sizes that none has."""

    def told(kind: Any, name: str, usual: Any) -> Any:
        # absent and null say the same in these configs
        return convert(kind, usual if config.get(name) is None else config[name], name)

    if kind == CAUSAL[0]:
        channels, patches = told(int, "z_dim", 16), (told(int, "patch_size", 1), 1)
        halves = told(list[bool], "temperal_downsample", [False, True, True])
        stages = len(halves), sum(halves)
    else:
        channels = told(int, "latent_channels", 128)
        patches = told(int, "patch_size", 4), told(int, "patch_size_t", 1)
        halves = told(list[bool], "spatio_temporal_scaling", [True, True, True, False])
        stages = sum(halves), sum(halves)
    if kind == CAUSAL[0] and sum(halves) != 2:
        # its code takes four frames at a time, whatever its layers make of them
        raise ValueError(f"{kind}: temperal_downsample must be true twice, got {halves}")
    if not (
        len(halves) <= MAX_BLOCKS
        and 1 <= channels <= MAX_CHANNELS
        and 1 <= min(patches) <= max(patches) <= 64
    ):
        raise ValueError(
            f"{kind}: {channels} channels, patches of {patches[0]} px and {patches[1]} frames, {len(halves)} "
            f"stages; at most {MAX_CHANNELS}, 64 and {MAX_BLOCKS} are read"
        )
    return channels, patches[0] * 2 ** stages[0], patches[1] * 2 ** stages[1]


def factor_of(folder: Path) -> int:
    """Pixels of a side to one latent, of a folder that `load_space` reads. Raises ValueError for a folder of
    another kind."""
    path = folder / "config.json"
    if not path.is_file():
        found = sorted(folder.glob("*encoder.safetensors"))
        if len(found) != 1:
            raise ValueError(f"{folder} has no config.json, so it is no autoencoder folder")
        return tiny_factor(header_shape(found[0], "0.weight")[0])
    config = convert(dict[str, Any], read_json(path), str(path))
    if config.get("_class_name") == "TinyAutoencoder":
        return tiny_factor(header_shape(folder / "model.safetensors", "encoder.0.weight")[0])
    if config.get("_class_name") in CAUSAL:
        return causal_sizes(config, config["_class_name"])[1]
    if config.get("_class_name") not in PUBLISHED_BLOCKS:
        known = ", ".join((*PUBLISHED_BLOCKS, *CAUSAL, "TinyAutoencoder"))
        raise ValueError(f"{path}: autoencoder {config.get('_class_name')!r} is none of {known}")
    name = "encoder_block_out_channels"
    blocks = len(convert(list[Any], config[name], f"{path}: {name}")) if name in config else None
    if blocks is None:
        blocks = PUBLISHED_BLOCKS[config["_class_name"]]
    if not 1 <= blocks <= MAX_BLOCKS:
        raise ValueError(f"{path}: {name} has {blocks} entries, and 1 to {MAX_BLOCKS} are read")
    # the first block keeps the size, and each further one halves it
    return 2 ** (blocks - 1)
