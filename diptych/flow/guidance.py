"""Classifier-free guidance for text, and for text with pictures: rules without state.

Shapes: velocities and x are (B, F, C, H, W); scales and noise levels are (B,), one a row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diptych.flow.shapes import per_row


def passes_needed(guidance: float, image_guidance: float, has_pictures: bool) -> tuple[str, ...]:
    """Which of 'conditional', 'picture_only' and 'unconditional' a step of a row computes."""
    # scales are settings, not results, so that they are compared exactly. Each shortcut is `combine`'s
    # formula with one pass cancelled out
    if not has_pictures:
        return ("conditional",) if guidance == 1.0 else ("conditional", "unconditional")
    if guidance == 1.0 and image_guidance == 1.0:
        return ("conditional",)
    if image_guidance == 1.0:
        return ("conditional", "picture_only")
    if guidance == image_guidance:
        return ("conditional", "unconditional")
    return ("conditional", "picture_only", "unconditional")


def guided_velocity(
    velocities: dict[str, Tensor],
    guidance: Tensor,
    image_guidance: Tensor,
    norm: str = "none",
    token: int = 1,
    first_step: Tensor | None = None,
) -> Tensor:
    """Velocity to step with, from those that `passes_needed` named, the same for all rows. Norms limit rows
    with a scale above 1.

    norm 'zero_star' (CFG-Zero*, arXiv 2503.18886; drawing only): rows in their first step (bool, B) do not
    move, later what guidance starts from is first projected onto the conditional velocity.
    """
    # also where a model embeds its scale: its one velocity is guided already
    if len(velocities) == 1:
        return velocities["conditional"]
    if norm == "zero_star":
        # before they are combined: the optimised scale belongs to what guidance starts from, not to the
        # result
        velocities = _projected_base(velocities)
    guided = combine(
        velocities["conditional"],
        velocities.get("picture_only"),
        velocities.get("unconditional"),
        guidance,
        image_guidance,
    )
    if norm == "zero_star" and first_step is not None:
        return guided.masked_fill(per_row(first_step, guided).bool(), 0.0)
    limited = renormalise(guided, velocities["conditional"], norm, token)
    if limited is guided:
        return guided
    # what is guided by less than the conditional pass is not too long
    above = (guidance > 1) | (image_guidance > 1)
    return torch.where(per_row(above, guided).bool(), limited, guided)


def combine(
    conditional: Tensor,
    picture_only: Tensor | None,
    unconditional: Tensor | None,
    guidance: Tensor,
    image_guidance: Tensor,
) -> Tensor:
    """Guided velocity from up to three passes (SenseNova-U1, arXiv 2605.12500 section 2.4).

    v_u + g (v_c - v_i) + g_i (v_i - v_u); without a source picture v_i = v_u. g_i = 1 needs no v_u, g = g_i
    no v_i: pass None for what `passes_needed` does not name.
    """
    scale = per_row(guidance, conditional)
    if picture_only is None and unconditional is None:
        return conditional
    if unconditional is None:
        assert picture_only is not None
        return picture_only + scale * (conditional - picture_only)
    if picture_only is None:
        return unconditional + scale * (conditional - unconditional)
    return (
        unconditional
        + scale * (conditional - picture_only)
        + per_row(image_guidance, conditional) * (picture_only - unconditional)
    )


def _projected_base(velocities: dict[str, Tensor]) -> dict[str, Tensor]:
    """The pass that sees least, projected onto the conditional one."""
    name = "unconditional" if "unconditional" in velocities else "picture_only"
    conditional, base = velocities["conditional"], velocities[name]
    axes = tuple(range(1, base.ndim))
    # s* = <v_c, v_u> / |v_u|^2, over all values of a row (CFG-Zero*)
    along = (conditional * base).sum(axes, keepdim=True)
    return {**velocities, name: base * (along / (base.square().sum(axes, keepdim=True) + 1e-8))}


def renormalise(guided: Tensor, conditional: Tensor, norm: str, token: int) -> Tensor:
    """Limit the guided velocity to the length of the conditional one.

    'global': over the row; 'channel': over each token of each frame, `token` values of the target a side;
    others leave it.
    """
    if norm not in ("global", "channel"):
        return guided

    def length(v: Tensor) -> Tensor:
        if norm == "global":
            return v.flatten(1).norm(dim=1).view(-1, 1, 1, 1, 1)
        # the width is split first: splitting the height moves every axis behind it
        cells = v.unflatten(4, (-1, token)).unflatten(3, (-1, token))
        tokens = cells.square().sum((2, 4, 6)).sqrt()
        return tokens.repeat_interleave(token, 2).repeat_interleave(token, 3)[:, :, None]

    # shortened where it is too long, and never lengthened, as published
    return guided * (length(conditional) / (length(guided) + 1e-8)).clamp_max(1.0)


def projected_guidance(
    x: Tensor,
    sigma: Tensor,
    conditional: Tensor,
    base: Tensor,
    guidance: Tensor,
    average: Tensor,
    momentum: float = -0.5,
    limit: float = 15.0,
) -> tuple[Tensor, Tensor]:
    """Adaptive projected guidance (APG, arXiv 2410.02416): large scales without burnt colours.

    The difference of the predicted clean pictures of the two passes is averaged over steps with negative
    momentum, limited to a length (over a whole row), and its part along the conditional prediction is left
    out. Returns the velocity to step with and the average, to be handed in at the next step; before the first
    it is 0.
    """
    axes = tuple(range(1, x.ndim))
    # x0 = x - sigma v, so the difference of the two clean pictures is sigma (v_base - v_conditional)
    level = per_row(sigma, x)
    clean = x - level * conditional
    average = level * (base - conditional) + momentum * average
    length = torch.linalg.vector_norm(average, dim=axes, keepdim=True)
    difference = average * (limit / length.clamp_min(1e-8)).clamp_max(1.0)
    square = clean.square().sum(axes, keepdim=True).clamp_min(1e-8)
    across = difference - (difference * clean).sum(axes, keepdim=True) / square * clean
    # back from clean pictures to a velocity. No step starts at level 0, so the division is safe
    return conditional - per_row(guidance - 1, x) * across / level, average
