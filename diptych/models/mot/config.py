"""Configuration of the mixture of transformers, with the published sizes (SenseNova-U1, arXiv 2605.12500,
Table 1)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from diptych.models import MAX_DEPTH

CHANNELS = 32
"""Width that `by_size` gives a model for each of its layers."""
MAX_COUNT = 2**20
"""Of heads, tokens, channels ...: beyond any model, and so little that the bytes of its matrices have a
number."""
MAX_PATCH = 1024


_COUNTS = (
    "vocab_size",
    "width",
    "depth",
    "heads",
    "kv_heads",
    "head_dim",
    "ffn_width",
    "patch",
    "vision_width",
    "head_width",
)
"""Fields of `MoTConfig` that are 1 to `MAX_COUNT`."""


@dataclass(frozen=True, kw_only=True)
class Experts:
    """A mixture-of-experts feed-forward: softmax over all experts in float32, the best k kept."""

    count: int
    per_token: int
    width: int
    normalise: bool = True
    """Divide the k weights by their sum."""

    def __post_init__(self) -> None:
        if not 1 <= self.width <= MAX_COUNT:
            raise ValueError(f"width of experts must be 1 to {MAX_COUNT:,}, got {self.width}")
        if not 1 <= self.per_token <= self.count:
            raise ValueError(f"per_token must be 1 to count ({self.count}), got {self.per_token}")


@dataclass(frozen=True, kw_only=True)
class MoTConfig:
    vocab_size: int
    width: int
    """C, the residual stream."""
    depth: int
    heads: int
    kv_heads: int
    head_dim: int
    """D; the first half turns with t, the third quarter with h, the last with w, so a multiple of 8."""
    ffn_width: int
    und_experts: Experts | None = None
    """Experts of the understanding stream (text and clean pictures); None = dense."""
    gen_experts: Experts | None = None
    """Experts of the generation stream (noisy pictures); None = dense."""
    norm_eps: float = 1e-6
    # text runs far, grids do not: time turns much slower than rows and columns
    rope_theta: float = 5e6
    rope_theta_hw: float = 1e4
    rope_theta_vision: float = 1e4
    patch: int = 16
    """Side of a patch, px; a token is 2x2 patches."""
    vision_width: int = 1024
    head: str = "linear"
    """'linear': two layers a token (U1); 'conv': pixel shuffle and 3x3 convolutions over the whole map
    (U1.5)."""
    head_width: int = 4096
    """Inner width of the linear head, or channels after the first convolution of the conv head."""
    noise_scale_max: float = 8.0
    """The noise scale is embedded as a share of this."""
    scalar_features: int = 256
    """Sinusoid features of a scalar (time, noise scale) before its MLP."""

    def __post_init__(self) -> None:
        for name in _COUNTS:
            if not 1 <= getattr(self, name) <= MAX_COUNT:
                raise ValueError(f"{name} must be 1 to {MAX_COUNT:,}, got {getattr(self, name)}")
        if self.patch > MAX_PATCH:
            raise ValueError(f"patch must be at most {MAX_PATCH} px, got {self.patch}")
        for name in ("rope_theta", "rope_theta_hw", "rope_theta_vision"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a number above 0, got {getattr(self, name)}")
        if not 0 <= self.norm_eps < math.inf:
            raise ValueError(f"norm_eps must be 0 or more, got {self.norm_eps}")
        if self.depth > MAX_DEPTH:
            raise ValueError(f"depth must be at most {MAX_DEPTH:,}, got {self.depth}")
        if self.head not in ("linear", "conv"):
            raise ValueError(f"head must be 'linear' or 'conv', got {self.head!r}")
        # quarters for h and w, halved once more for the pairs that turn together
        if self.head_dim % 8:
            raise ValueError(f"head_dim must be a multiple of 8 (t, h, w segments), got {self.head_dim}")
        if self.heads % self.kv_heads:
            raise ValueError(f"heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads})")
        if self.vision_width % 4:
            raise ValueError(
                f"vision_width must be a multiple of 4 (column and row rotation), got {self.vision_width}"
            )
        if self.head == "conv" and (self.width % 4 or self.head_width % 4 or self.patch % 2):
            raise ValueError("the conv head needs width and head_width divisible by 4 and an even patch")

    def widened(self, factor: int) -> MoTConfig:
        """The config of a model that is `factor` times as wide: heads, inner units and experts grow
        alike."""
        und, gen = (
            experts and replace(experts, width=experts.width * factor)
            for experts in (self.und_experts, self.gen_experts)
        )
        return replace(
            self,
            width=self.width * factor,
            heads=self.heads * factor,
            kv_heads=self.kv_heads * factor,
            und_experts=und,
            gen_experts=gen,
            ffn_width=self.ffn_width * factor,
            head_width=self.head_width * factor,
        )

    @property
    def token(self) -> int:
        """Side of a token, px."""
        return 2 * self.patch

    @property
    def token_values(self) -> int:
        return 3 * self.token**2


def by_size(size: int, vocab_size: int, patch: int, depth: int | None = None) -> MoTConfig:
    """The dial: `size` layers set everything else (width 32 a layer, heads of 48, feed-forward 8/3 wide);
    `depth`: other layers."""
    if size < 1:
        raise ValueError(f"size must be at least 1 layer, got {size}")
    width = CHANNELS * size
    return MoTConfig(
        vocab_size=vocab_size,
        width=width,
        depth=depth or size,
        heads=max(1, round(width / 48)),
        kv_heads=max(1, round(width / 48)),
        head_dim=48,
        # 8/3 with three matrices has as many weights as 4 with two; rounded up to whole 32s
        ffn_width=-(-width * 8 // 3 // 32) * 32,
        patch=patch,
        vision_width=64,
        head="conv",
        head_width=max(32, width // 2),
        rope_theta=1e4,
        rope_theta_hw=100.0,
        rope_theta_vision=100.0,
        noise_scale_max=4.0,
        scalar_features=128,
    )


def u1_8b() -> MoTConfig:
    """8B-MoT: 6 pre-buffer layers and Qwen3-8B's 36, all ordinary layers."""
    return MoTConfig(
        vocab_size=151_936,
        width=4096,
        depth=42,
        heads=32,
        kv_heads=8,
        head_dim=128,
        ffn_width=12_288,
    )


def u1_5_8b() -> MoTConfig:
    """U1.5-8B-MoT: 8B-MoT with the convolutional head, and noise for pictures of up to 4096 px a side."""
    return replace(u1_8b(), head="conv", head_width=1024, noise_scale_max=16.0)


def u1_a3b() -> MoTConfig:
    """A3B-MoT: 128 experts for text and clean pictures, 32 for noisy ones, 8 chosen."""
    return MoTConfig(
        vocab_size=151_936,
        width=2048,
        depth=48,
        heads=32,
        kv_heads=4,
        head_dim=128,
        ffn_width=6144,
        rope_theta=1e7,
        und_experts=Experts(count=128, per_token=8, width=768),
        gen_experts=Experts(count=32, per_token=8, width=768),
    )
