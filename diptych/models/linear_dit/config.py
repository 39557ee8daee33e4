"""One config makes every size; the published ones are presets."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from diptych.models import MAX_DEPTH
from diptych.request import Role

HEAD = 32
"""Width of a head of the linear attention in every published model."""
FRAME_ROLES = (
    Role.TARGET,
    Role.SOURCE,
    Role.MASK,
    Role.REFERENCE,
    Role.CONTROL,
    Role.FIRST,
    Role.LAST,
)
"""What a frame may be for, in the order of the model's tables: a new role goes to the end."""


@dataclass(frozen=True, kw_only=True)
class LinearDiTConfig:
    """Sizes and conventions of one linear diffusion transformer."""

    depth: int
    """Number of blocks."""
    width: int
    """C; a multiple of 32, the head width of the linear attention."""
    cross_heads: int
    """Heads of the cross-attention; they divide the width."""
    channels: int = 32
    """Latent channels, in and out."""
    caption_channels: int = 2304
    """Width of the text encoder's hidden states (Gemma-2-2B: 2304)."""
    mlp_ratio: float = 2.5
    patch: int = 1
    """Latent pixels a side of a token."""
    qk_norm: bool = True
    """RMSNorm on queries and keys of both attentions; SANA 1.0 has none, 1.5 and Sprint have it."""
    guidance_embedding: bool = False
    """Sprint's students take the guidance scale as an input."""
    multi_frame: bool = False
    """Whether further frames can be drawn or given (source, mask, control ...); adds a role table, a
    projection of their times and mixing weights, all zero."""
    position_scale: float | None = None
    """Sine-cosine table of positions with this interpolation, for 2K (1.0) and 4K (2.0); None: no table."""
    position_base: int = 32
    """Latent side whose positions count by ones in that table."""
    time_scale: float = 1000.0
    """What the time embedding sees is time_scale * sigma; Sprint: 1."""
    whole_time: bool = False
    """Cut the time 1000 sigma off to a whole number before it is scaled, as the published native model and
    diffusers' DPM scheduler do."""
    attention_eps: float = 1e-15
    """Added to the divisor of the linear attention: 1e-8 in the native code, 1e-15 in diffusers."""
    cross_norm_eps: float = 1e-5
    """Of the cross-attention's query and key norms: 1e-6 in the native code, 1e-5 in diffusers."""

    def __post_init__(self) -> None:
        if self.width % HEAD or self.width < HEAD:
            raise ValueError(f"width must be a multiple of {HEAD} (the head width), got {self.width}")
        if self.cross_heads < 1 or self.width % self.cross_heads:
            raise ValueError(f"cross_heads must divide the width {self.width}, got {self.cross_heads}")
        for name in ("depth", "channels", "caption_channels", "patch", "position_base"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.depth > MAX_DEPTH:
            raise ValueError(f"depth must be at most {MAX_DEPTH:,}, got {self.depth}")
        if not 0 < self.time_scale < math.inf:
            raise ValueError(f"time_scale must be a number above 0, got {self.time_scale}")
        if not 0 < self.mlp_ratio <= 100:
            raise ValueError(f"mlp_ratio must be above 0 and at most 100, got {self.mlp_ratio}")
        if self.position_scale is not None and not 0 < self.position_scale < math.inf:
            raise ValueError(f"position_scale must be above 0, got {self.position_scale}")
        # half of the channels for columns, half for rows, and each half is sines and cosines
        if self.position_scale is not None and self.width % 4:
            raise ValueError(f"a position table needs a width that is a multiple of 4, got {self.width}")

    def widened(self, factor: int) -> LinearDiTConfig:
        """The config of a model that is `factor` times as wide. Raises ValueError where none computes the
        same."""
        if self.position_scale is not None:
            raise ValueError(
                "the model adds a table of positions that depends on its width, so a wider one cannot "
                "compute the same"
            )
        width = self.width * factor
        ratio = ratio_of(self.ffn_width * factor, width)
        return replace(self, width=width, cross_heads=self.cross_heads * factor, mlp_ratio=ratio)

    @property
    def heads(self) -> int:
        return self.width // HEAD

    @property
    def ffn_width(self) -> int:
        """Inner width of the feed-forward, before it is doubled for the gate; cut off, as the public codes
        do."""
        return int(self.mlp_ratio * self.width)


def ratio_of(ffn_width: int, width: int) -> float:
    """The `mlp_ratio` whose product with a width is cut off to `ffn_width`."""
    ratio = ffn_width / width
    # a quotient times its divisor may come back a hair below the whole number that it was
    return ratio if int(ratio * width) == ffn_width else math.nextafter(ratio, math.inf)


def _small(
    *, qk_norm: bool = True, guidance_embedding: bool = False, time_scale: float = 1000.0
) -> LinearDiTConfig:
    return LinearDiTConfig(
        depth=28,
        width=1152,
        cross_heads=16,
        qk_norm=qk_norm,
        guidance_embedding=guidance_embedding,
        time_scale=time_scale,
    )


def _wide(
    depth: int = 20, *, qk_norm: bool = True, guidance_embedding: bool = False, time_scale: float = 1000.0
) -> LinearDiTConfig:
    return LinearDiTConfig(
        depth=depth,
        # 20 heads of 112 in the cross-attention, but 70 of 32 in the linear one; 3.2B and 4.8B are deeper,
        # not wider
        width=2240,
        cross_heads=20,
        qk_norm=qk_norm,
        guidance_embedding=guidance_embedding,
        time_scale=time_scale,
    )


PRESETS = {
    # time_scale is 1 in Sprint alone: its teachers were first tuned to times of 0..1
    "sana_0.6b": _small(qk_norm=False),
    "sana_1.6b": _wide(qk_norm=False),
    "sana1.5_1.6b": _wide(),
    "sana1.5_3.2b": _wide(40),
    "sana1.5_4.8b": _wide(60),
    "sprint_0.6b": _small(guidance_embedding=True, time_scale=1.0),
    "sprint_1.6b": _wide(guidance_embedding=True, time_scale=1.0),
}
"""Published sizes (SANA, arXiv 2410.10629; SANA-1.5, 2501.18427; SANA-Sprint, 2503.09641)."""
