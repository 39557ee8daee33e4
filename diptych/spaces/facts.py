"""What a folder says of a space of features, read without torch."""

from __future__ import annotations

from dataclasses import dataclass

KIND = "features"
"""In config.json of such a space."""


@dataclass(frozen=True, kw_only=True)
class FeatureFacts:
    """What a folder says of its space."""

    kind: str
    channels: int
    side: int
    native: int
    """px a side of the pictures that its detokenizer draws, and that were encoded."""
    made_by: str
    """Identity of the encoder."""
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.kind != KIND:
            raise ValueError(f"kind must be {KIND!r}, got {self.kind!r}")
        for name in ("channels", "side", "native"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if {len(self.mean), len(self.deviation)} not in ({0}, {self.channels}):
            raise ValueError(
                f"mean and deviation must have {self.channels} numbers, or none, got {len(self.mean)} and "
                f"{len(self.deviation)}"
            )
        if any(value <= 0 for value in self.deviation):
            raise ValueError("a deviation must be above 0")
