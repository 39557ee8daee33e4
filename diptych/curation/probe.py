"""What a picture is, measured without any model: size, sharpness, contents, borders, how it was saved."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from PIL import Image

from diptych.curation.decode import Seen
from diptych.curation.stage import Batch, Drop, Stage, Verdict, View, above, below, threshold

WINDOW = 9
"""Sides of the window in which the contrast of an edge is taken, px."""
SHARP = 0.5
"""Sharpness of the brightness from which the colours are not asked: looking at them takes three times as
long."""


@dataclass(frozen=True, kw_only=True)
class Probe(Stage):
    """Decodes a picture and measures it; drops what is too small, too long, blurred, empty or squeezed."""

    kind: ClassVar[str] = "probe"
    version: ClassVar[int] = 2

    min_side: int = threshold(64)
    """Shorter side, px."""
    max_aspect: float = threshold(4.0)
    """Longer side to shorter."""
    min_sharpness: float | None = threshold(0.3)
    """See `sharpness`."""
    min_entropy: float | None = threshold(None)
    """Bits of a pixel's brightness."""
    max_solid: float | None = threshold(0.995)
    """Share of the commonest colour."""
    max_border: float | None = threshold(None)
    """Share of the picture that plain borders take."""
    min_quality: float | None = threshold(None)
    """Of a JPEG, 1 to 100; other formats pass."""
    animated: bool = threshold(True)
    """Whether animations are kept, of which the first frame is taken."""

    def gives(self) -> dict[str, pa.DataType]:
        whole = dict.fromkeys(("width", "height"), pa.int32())
        truths = dict.fromkeys(("alpha", "turned", "animated"), pa.bool_())
        measured = dict.fromkeys(
            ("pixels", "aspect", "sharpness", "entropy", "contrast", "solid", "border", "quality", "bits"),
            pa.float32(),
        )
        return {"format": pa.string(), "mode": pa.string(), **whole, **truths, **measured}

    def look(self, seen: Seen, loaded: Any) -> dict[str, Any]:
        height, width = seen.pixels.shape[:2]
        about = seen.header
        return {
            "format": about.format,
            "mode": about.mode,
            "alpha": about.alpha,
            "turned": about.turned,
            "animated": about.animated,
            "width": width,
            "height": height,
            "pixels": float(width * height),
            "aspect": max(width, height) / min(width, height),
            "sharpness": sharpest(seen),
            "entropy": entropy(seen.gray),
            "contrast": float(seen.gray.std()),
            "solid": solid(seen.small),
            "border": border(seen),
            "quality": jpeg_quality(about.luminance),
            "bits": len(seen.data) * 8 / (width * height),
        }

    def compute(self, batch: Batch, loaded: Any) -> Mapping[str, Sequence[Any]]:
        return {name: [told[name] for told in batch.looked] for name in self.gives()}

    def judge(self, view: View) -> Verdict:
        def of(name: str) -> np.ndarray:
            return view[f"{self.name}.{name}"]

        def named(name: str) -> str:
            return f"{self.name}.{name}"

        side = np.minimum(of("width"), of("height"))
        drops = [
            *below("too small", side, self.min_side, named("side")),
            *above("too long", of("aspect"), self.max_aspect, named("aspect")),
            *above("one colour", of("solid"), self.max_solid, named("solid")),
            *below("blurred", of("sharpness"), self.min_sharpness, named("sharpness")),
            *below("empty", of("entropy"), self.min_entropy, named("entropy")),
            *above("mostly border", of("border"), self.max_border, named("border")),
        ]
        if self.min_quality is not None:
            quality = np.nan_to_num(of("quality"), nan=100.0)
            drops += below("saved too small", quality, self.min_quality, named("quality"))
        if not self.animated:
            drops.append(Drop("an animation", of("animated")))
        # a border adds pixels and shows nothing: of two copies the one without it is the better
        content = of("pixels") * (1 - of("border")) * (1 - of("border") / 10)
        return Verdict(drops, {"side": side, "content": content})


def sharpest(seen: Seen) -> float:
    """`sharpness` of the brightness and, where that one finds little, of the colour that is sharpest: an edge
    between colours of one brightness is an edge."""
    found = sharpness(seen.gray)
    if found >= SHARP:
        return found
    return max(found, *(sharpness(np.ascontiguousarray(seen.small[..., n])) for n in range(3)))


def sharpness(gray: np.ndarray) -> float:
    """Largest step between neighbours as a share of an edge's whole contrast: 1 for a step of one pixel,
    about 0.4 / s for an edge blurred by a Gaussian of s px. The median over the strongest edges; 0 without
    edges.

    A share, and not the usual variance of a Laplacian: that one grows with contrast and with detail, so a
    sharp drawing in few lines would count as blurred.
    """
    if min(gray.shape) < WINDOW:
        return 1.0
    contrast = _highest(gray) - (255 - _highest(255 - gray))
    # the strongest hundredth, as blur shows at edges alone; of so many at least that a speck is not all
    enough = max(24, int(np.percentile(contrast, 99)))
    wide = gray.astype(np.int16)
    step = np.zeros(gray.shape, dtype=np.uint8)
    step[:, 1:] = np.abs(wide[:, 1:] - wide[:, :-1])
    step[1:] = np.maximum(step[1:], np.abs(wide[1:] - wide[:-1]))
    steepest = _highest(step)
    places = contrast >= enough
    if not places.any():
        return 0.0
    return float(np.median(steepest[places] / contrast[places]))


def _highest(values: np.ndarray) -> np.ndarray:
    """The largest value in a window around each place that has a whole one."""
    for axis in (0, 1):
        # of 2, 4 and 8 places, and at last of the window: each from two of the one before
        for apart in (1, 2, 4, WINDOW - 8):
            length = values.shape[axis] - apart
            parts = (
                (values[:length], values[apart:]) if axis == 0 else (values[:, :length], values[:, apart:])
            )
            values = np.maximum(*parts)
    return values


def entropy(gray: np.ndarray) -> float:
    """Of the brightness of a pixel, bits: 0 for one colour, 8 at most."""
    shares = np.bincount(gray.ravel(), minlength=256) / gray.size
    shares = shares[shares > 0]
    return float(-(shares * np.log2(shares)).sum())


def solid(pixels: np.ndarray) -> float:
    """Share of the commonest colour, of 4,096."""
    coarse = (pixels >> 4).astype(np.uint16)
    return float(np.bincount((coarse[..., 0] << 8 | coarse[..., 1] << 4 | coarse[..., 2]).ravel()).max()) / (
        pixels.shape[0] * pixels.shape[1]
    )


def border(seen: Seen) -> float:
    top, bottom, left, right = seen.box
    height, width = seen.small.shape[:2]
    return 1 - (bottom - top) * (right - left) / (height * width)


def jpeg_quality(luminance: float) -> float:
    """Quality, 1 to 100, that libjpeg's own tables would need for this sum; NaN for what is no JPEG."""
    if not luminance:
        return float("nan")
    return float(np.interp(-luminance, [-total for total in _sums()], range(1, 101)))


@cache
def _sums() -> list[float]:
    """Sum of the table of brightness at each quality, falling."""
    totals = []
    for quality in range(1, 101):
        file = io.BytesIO()
        Image.new("L", (8, 8)).save(file, format="JPEG", quality=quality)
        with Image.open(file) as image:
            totals.append(float(sum(image.quantization[0])))  # type: ignore[attr-defined]
    return totals
