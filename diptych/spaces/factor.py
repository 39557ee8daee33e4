"""How much smaller than pictures the latents of an autoencoder are, told without loading it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diptych.files.folder import header_shape
from diptych.files.typed import convert, read_json

DEEP_STEM = 32
"""Channels of the first convolution of a tiny autoencoder whose stem halves the picture twice more."""
PUBLISHED_BLOCKS = {"AutoencoderDC": 6, "AutoencoderTiny": 4}
"""Blocks of the encoders of diffusers, where a config does not say."""
MAX_BLOCKS = 10


def tiny_factor(channels: int) -> int:
    """Of a tiny autoencoder, by the width of its first convolution: half as wide, it begins the deeper
    stem."""
    return 32 if channels == DEEP_STEM else 8


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
    if config.get("_class_name") not in PUBLISHED_BLOCKS:
        known = ", ".join((*PUBLISHED_BLOCKS, "TinyAutoencoder"))
        raise ValueError(f"{path}: autoencoder {config.get('_class_name')!r} is none of {known}")
    name = "encoder_block_out_channels"
    blocks = len(convert(list[Any], config[name], f"{path}: {name}")) if name in config else None
    if blocks is None:
        blocks = PUBLISHED_BLOCKS[config["_class_name"]]
    if not 1 <= blocks <= MAX_BLOCKS:
        raise ValueError(f"{path}: {name} has {blocks} entries, and 1 to {MAX_BLOCKS} are read")
    # the first block keeps the size, and each further one halves it
    return 2 ** (blocks - 1)
