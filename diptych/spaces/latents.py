"""Latents of an autoencoder as image space: one place for scale factors, tiles and sizes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from diptych.files.folder import ModelFolderError, check_depth, check_shapes
from diptych.files.typed import convert, read_json, to_json
from diptych.files.weights import Weights, all_finite, open_weights
from diptych.files.whole import whole, write_whole
from diptych.models.meta import without_storage
from diptych.settings import round_sides
from diptych.spaces.factor import CAUSAL, causal_sizes
from diptych.spaces.pixels import to_bytes
from diptych.spaces.tiny import TinyAutoencoder

TILE = 1024
"""Pictures with more pixels a side than this are worked on in tiles of it."""
OVERLAP = 0.25
"""Share of a tile that is blended with its neighbour."""


class Autoencoder(Protocol):
    """Pictures of -1..1 (P, 3, height, width) <-> raw latents (P, channels, height / factor, width /
    factor)."""

    channels: int
    factor: int

    def encode(self, x: Tensor) -> Tensor: ...

    def decode(self, latents: Tensor) -> Tensor: ...


class DiffusersAutoencoder(nn.Module):
    """An autoencoder of diffusers: DC-AE (AutoencoderDC) or a plain tiny one (AutoencoderTiny)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        config: Any = model.config
        self.channels = int(config.latent_channels)
        if type(model).__name__ == "AutoencoderDC":
            self.factor = int(model.spatial_compression_ratio)  # type: ignore[arg-type]
        else:
            # its first block keeps the size, and each further one halves it
            self.factor = 2 ** (len(config.encoder_block_out_channels) - 1)

    def encode(self, x: Tensor) -> Tensor:
        found = self.model.encode(x)  # type: ignore[operator]
        # diffusers calls them so for AutoencoderDC, and latents for AutoencoderTiny
        return found.latent if hasattr(found, "latent") else found.latents

    def decode(self, latents: Tensor) -> Tensor:
        return self.model.decode(latents).sample  # type: ignore[operator]


class LatentSpace:
    """Scaled latents as target of the flow.

    `scale` multiplies raw latents, so that they have about unit variance (DC-AE: 0.41407). Encoding and
    decoding are deterministic. Pictures larger than `tile` px a side are worked on in overlapping tiles, so
    memory is bounded.
    """

    def __init__(self, autoencoder: Autoencoder, scale: float = 1.0, tile: int = TILE) -> None:
        self.autoencoder, self.scale = autoencoder, scale
        self.factor, self.channels = autoencoder.factor, autoencoder.channels
        if not 0 < scale < math.inf:
            raise ValueError(f"the scale of latents must be above 0, got {scale}")
        if tile < 2 * self.factor or tile % self.factor:
            raise ValueError(f"tile must be a multiple of {self.factor} px, at least two of them, got {tile}")
        self.tile = tile

    def encode(self, pixels: Tensor) -> Tensor:
        """uint8 (B, F, 3, height, width) -> (B, F, channels, height / factor, width / factor), each frame by
        itself. Raises ValueError for sides that are no multiples of the factor."""
        height, width = pixels.shape[-2:]
        if height % self.factor or width % self.factor:
            raise ValueError(f"sides must be multiples of {self.factor} px, got {width}x{height}")
        parts = self._parameters()
        x = pixels.flatten(0, 1).to(parts.device).to(parts.dtype) / 127.5 - 1.0
        latents = self._tiled(x, self.autoencoder.encode, self.tile, 1 / self.factor).float() * self.scale
        return latents.unflatten(0, pixels.shape[:2])

    def decode(self, target: Tensor, seeds: Sequence[int] | None = None) -> Tensor:
        """Scaled latents (B, F, channels, h, w) -> uint8 (B, F, 3, h factor, w factor), clamped. Raises
        ValueError as `to_bytes`."""
        parts = self._parameters()
        latents = (target.flatten(0, 1) / self.scale).to(parts)
        x = self._tiled(latents, self.autoencoder.decode, self.tile // self.factor, float(self.factor))
        return to_bytes(x).unflatten(0, target.shape[:2])

    def shape(self, width: int, height: int, frames: int = 1) -> tuple[int, int, int, int]:
        """(frames, channels, height, width) of the target tensor."""
        return (frames, self.channels, height // self.factor, width // self.factor)

    def round_size(self, width: int, height: int) -> tuple[int, int]:
        """The nearest size that can be drawn; ties to even, at least one latent a side."""
        return round_sides(width, height, self.factor)

    def identity(self) -> str:
        """Checksum of weights and scale: caches of latents are keyed by it."""
        digest = hashlib.sha256(repr(self.scale).encode())
        assert isinstance(self.autoencoder, nn.Module)
        for name, tensor in sorted(self.autoencoder.state_dict().items()):
            digest.update(name.encode())
            # bytes and not values: the same weights in another type make other latents
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]

    def to(self, device: torch.device | str) -> LatentSpace:
        assert isinstance(self.autoencoder, nn.Module)
        self.autoencoder.to(device)
        return self

    def _parameters(self) -> Tensor:
        assert isinstance(self.autoencoder, nn.Module)
        return next(self.autoencoder.parameters())

    @staticmethod
    @torch.no_grad()
    def _tiled(x: Tensor, work: Callable[[Tensor], Tensor], tile: int, ratio: float) -> Tensor:
        """work(x), in tiles of `tile` where a side is longer, their overlaps blended linearly. `ratio` =
        output / input side."""
        height, width = x.shape[-2:]
        if max(height, width) <= tile:
            return work(x)
        # ratio < 1 encodes (a tile counts pixels), above 1 decodes (it counts latents, which begin anywhere)
        step = max(1, round(tile * (1 - OVERLAP)))
        if ratio < 1:
            # tiles must begin on whole latents
            step = max(1, round(step * ratio)) * round(1 / ratio)
        total: Tensor | None = None
        weights: Tensor | None = None
        for top in _starts(height, tile, step):
            for left in _starts(width, tile, step):
                # in float32: sums of a half type would be rounded coarser in the overlaps than beside them
                piece = work(x[..., top : top + tile, left : left + tile]).float()
                if total is None or weights is None:
                    total = piece.new_zeros(*piece.shape[:2], round(height * ratio), round(width * ratio))
                    weights = total.new_zeros(1, 1, *total.shape[-2:])
                soft = _ramp(piece.shape[-2], piece)[:, None] * _ramp(piece.shape[-1], piece)
                rows = slice(round(top * ratio), round(top * ratio) + piece.shape[-2])
                columns = slice(round(left * ratio), round(left * ratio) + piece.shape[-1])
                total[..., rows, columns] += piece * soft
                weights[..., rows, columns] += soft
        assert total is not None
        assert weights is not None
        # divided by the weights that came together: the last tile overlaps more than the others, and nothing
        # lies over the rim of a picture
        return total / weights


def _starts(side: int, tile: int, step: int) -> list[int]:
    # the last tile ends at the picture's edge, however much it overlaps: all tiles are of one shape
    return [0] if side <= tile else [*range(0, side - tile, step), side - tile]


def _ramp(length: int, like: Tensor) -> Tensor:
    """Weights along a tile: rising over the overlap, 1, falling."""
    # half a step in, so that no weight is zero: at the rim it is what the sum is divided by
    at = torch.arange(length, device=like.device, dtype=torch.float32) + 0.5
    return torch.minimum(at, length - at).div(max(1.0, length * OVERLAP)).clamp_max(1.0)


def load_space(folder: Path) -> LatentSpace:
    """An image space from a folder: diffusers' AutoencoderDC or AutoencoderTiny, one of `factor.CAUSAL`,
    which codes clips as a whole, or a tiny autoencoder that `save_space` wrote.

    A folder with published tiny files (NAME_encoder.safetensors, NAME_decoder.safetensors) will do as well.
    Raises ValueError for a folder of another kind. Only safetensors are read.
    """
    path = folder / "config.json"
    pair = [sorted(folder.glob(f"*{part}.safetensors")) for part in ("encoder", "decoder")]
    if not path.is_file() and len(pair[0]) == len(pair[1]) == 1:
        return tiny_space(pair[0][0], pair[1][0])
    if not path.is_file():
        raise ValueError(f"{folder} has no config.json, so it is no autoencoder folder")
    config = convert(dict[str, Any], read_json(path), str(path))
    kind = config.get("_class_name")
    if kind == "TinyAutoencoder":
        scale = convert(float, config.get("scale"), f"{path}: scale")
        return LatentSpace(_tiny({"": open_weights(folder)}), scale)
    if kind not in ("AutoencoderDC", "AutoencoderTiny", *CAUSAL):
        raise ValueError(
            f"{path}: autoencoder {kind!r} is none of AutoencoderDC, AutoencoderTiny, {', '.join(CAUSAL)}, "
            "TinyAutoencoder"
        )
    if kind in CAUSAL:
        causal_sizes(config, kind)
    scale = convert(float, config.get("scaling_factor", 1.0), f"{path}: scaling_factor")
    stored = open_weights(folder, "diffusion_pytorch_model")
    check_depth(config, stored, str(path))
    import diffusers

    try:
        # names and shapes before any memory: the config may be of a larger model
        with without_storage():
            expected = getattr(diffusers, kind).from_config(config).state_dict()
        check_shapes(
            {name: tuple(empty.shape) for name, empty in expected.items()}, stored.shapes(), str(path)
        )
        model = getattr(diffusers, kind).from_pretrained(folder, use_safetensors=True, local_files_only=True)
        all_finite(model.state_dict().items(), folder)
    except ModelFolderError:
        raise
    # its errors are of every class, by what the config contradicts
    except Exception as error:
        raise ValueError(f"{folder}: the autoencoder cannot be read ({error})") from error
    if kind in CAUSAL:
        from diptych.spaces.causal import CausalAutoencoder, CausalSpace

        return CausalSpace(CausalAutoencoder(model.eval().requires_grad_(False)))
    return LatentSpace(DiffusersAutoencoder(model.eval()), scale)


def save_space(space: LatentSpace, folder: Path) -> None:
    """Write an image space so that `load_space` reads it."""
    model: Any = getattr(space.autoencoder, "model", None)
    if model is not None:
        model.save_pretrained(folder, safe_serialization=True)
        return
    assert isinstance(space.autoencoder, nn.Module)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "config.json", to_json({"_class_name": "TinyAutoencoder", "scale": space.scale}))
    tensors = {name: tensor.contiguous() for name, tensor in space.autoencoder.state_dict().items()}
    with whole(folder / "model.safetensors") as aside:
        save_file(tensors, aside)


def tiny_space(encoder: Path, decoder: Path | None = None) -> LatentSpace:
    """A tiny autoencoder from its published files (safetensors)."""
    parts = {"encoder.": open_weights(encoder.parent, encoder.stem)}
    if decoder is not None:
        parts["decoder."] = open_weights(decoder.parent, decoder.stem)
    return LatentSpace(_tiny(parts))


def _tiny(files: Mapping[str, Weights]) -> TinyAutoencoder:
    """A tiny autoencoder from its files, by what stands before their names in it."""
    shapes = {before + name: shape for before, file in files.items() for name, shape in file.shapes().items()}
    with without_storage():
        model = TinyAutoencoder(shapes)
    expected = {name: tuple(empty.shape) for name, empty in model.state_dict().items()}
    check_shapes(expected, shapes, "a tiny autoencoder's weights")
    weights = {before + name: tensor for before, file in files.items() for name, tensor in file.all().items()}
    model.load_state_dict({name: tensor.float() for name, tensor in weights.items()}, assign=True)
    return model.eval()
