"""One config makes every size; the published one is a preset."""

from __future__ import annotations

from dataclasses import dataclass, replace

from diptych.models import MAX_DEPTH

FFN_MULTIPLE = 256
"""The inner width of a published feed-forward is a multiple of this."""
TIME_WIDTH = 1024
"""Channels of a time embedding at most, as published."""


@dataclass(frozen=True, kw_only=True)
class FeatureDiTConfig:
    """Sizes of one transformer over a grid of feature vectors."""

    depth: int
    """Number of blocks."""
    width: int
    """C."""
    heads: int
    """They divide the width, into heads of a multiple of 4 channels."""
    channels: int
    """Of a feature vector, in and out."""
    caption_channels: int
    """Width of what a bridge gives."""
    ffn_width: int = 0
    """Inner width of the feed-forward; 0: two thirds of four times the width, rounded up to a multiple of 256
    (4864 for 1792)."""
    time_width: int = 0
    """Channels of the embedding of time and condition; 0: the width, 1024 at most."""
    whole_time: bool = False
    """Cut the time 1000 sigma off to a whole number, as the published code does when it draws; the levels
    that it trains on are whole thousandths."""
    blind: bool = False
    """Whether neither what is noisy nor its level is looked at: a clean target is predicted from the
    condition alone, which is regression. Trained at sigma = 1, where the error of the velocity is that of the
    prediction, and drawn in one step."""

    def __post_init__(self) -> None:
        for name in ("depth", "width", "heads", "channels", "caption_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("ffn_width", "time_width"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or above, got {getattr(self, name)}")
        if self.depth > MAX_DEPTH:
            raise ValueError(f"depth must be at most {MAX_DEPTH:,}, got {self.depth}")
        if self.width % (4 * self.heads):
            raise ValueError(
                f"width must be a multiple of 4 heads ({4 * self.heads}: rows and columns turn pairs of "
                f"channels), got {self.width}"
            )

    @property
    def inner(self) -> int:
        """Inner width of the feed-forward."""
        wanted = 8 * self.width // 3
        return self.ffn_width or -(-wanted // FFN_MULTIPLE) * FFN_MULTIPLE

    @property
    def embedded(self) -> int:
        """Channels of the embedding of time and condition."""
        return self.time_width or min(self.width, TIME_WIDTH)

    @property
    def patch(self) -> int:
        """A token is one vector."""
        return 1

    def widened(self, factor: int) -> FeatureDiTConfig:
        """The config of a model that is `factor` times as wide and computes the same."""
        return replace(
            self,
            width=self.width * factor,
            heads=self.heads * factor,
            ffn_width=self.inner * factor,
            # named, as the rule for the wider model may be another
            time_width=self.embedded,
        )


PRESETS = {
    "blip3o_1.4b": FeatureDiTConfig(
        depth=24, width=1792, heads=28, channels=1792, caption_channels=3584, whole_time=True
    ),
}
"""Published sizes (BLIP3-o, arXiv 2505.09568): over EVA-CLIP-E, for the 8B model; 4B differs in
`caption_channels`, 2048."""
