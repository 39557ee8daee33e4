"""Classifier-free guidance for text, and for text with pictures."""

from __future__ import annotations

import torch
from torch import Tensor


def combine(
    conditional: Tensor,
    picture_only: Tensor | None,
    unconditional: Tensor | None,
    guidance: float,
    image_guidance: float,
) -> Tensor:
    """Guided velocity from up to three passes (SenseNova-U1, arXiv 2605.12500 section 2.4).

    v_u + g (v_c - v_i) + g_i (v_i - v_u); without a source picture v_i = v_u. g_i = 1 needs no v_u, g = g_i
    no v_i: pass None for what `passes_needed` does not name.
    """
    if picture_only is None and unconditional is None:
        return conditional
    if unconditional is None:
        assert picture_only is not None
        return picture_only + guidance * (conditional - picture_only)
    if picture_only is None:
        return unconditional + guidance * (conditional - unconditional)
    return (
        unconditional
        + guidance * (conditional - picture_only)
        + image_guidance * (picture_only - unconditional)
    )


def passes_needed(guidance: float, image_guidance: float, has_pictures: bool) -> tuple[str, ...]:
    """Which of 'conditional', 'picture_only' and 'unconditional' a step computes."""
    if not has_pictures:
        return ("conditional",) if guidance == 1.0 else ("conditional", "unconditional")
    if guidance == 1.0 and image_guidance == 1.0:
        return ("conditional",)
    if image_guidance == 1.0:
        return ("conditional", "picture_only")
    if guidance == image_guidance:
        return ("conditional", "unconditional")
    return ("conditional", "picture_only", "unconditional")


def renormalise(guided: Tensor, conditional: Tensor, norm: str, token: int) -> Tensor:
    """Limit the guided velocity (P, 3, height, width) to the length of the conditional one.

    'global': over the picture; 'channel': over each token of `token` px; 'none' and 'zero_star' leave it.
    """
    if norm not in ("global", "channel"):
        return guided

    def length(v: Tensor) -> Tensor:
        if norm == "global":
            return v.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        p, c, height, width = v.shape
        tokens = v.view(p, c, height // token, token, width // token, token).square().sum((1, 3, 5)).sqrt()
        return tokens.repeat_interleave(token, 1).repeat_interleave(token, 2)[:, None]

    return guided * (length(conditional) / (length(guided) + 1e-8)).clamp_max(1.0)


def guided_velocity(
    velocities: dict[str, Tensor],
    guidance: float,
    image_guidance: float,
    norm: str = "none",
    token: int = 1,
    first_step: bool = False,
) -> Tensor:
    """Velocity (P, 3, height, width) to step with, from those that `passes_needed` named.

    norm 'zero_star' (CFG-Zero*, arXiv 2503.18886; drawing only): nothing moves in the first step, later the
    unconditional velocity is first projected onto the conditional one.
    """
    conditional, unconditional = velocities["conditional"], velocities.get("unconditional")
    if norm == "zero_star" and unconditional is not None:
        if first_step:
            return conditional * 0.0
        axes = tuple(range(1, conditional.ndim))
        along = (conditional * unconditional).sum(axes, keepdim=True)
        unconditional = unconditional * (along / (unconditional.square().sum(axes, keepdim=True) + 1e-8))
    if len(velocities) == 1:
        return conditional
    guided = combine(conditional, velocities.get("picture_only"), unconditional, guidance, image_guidance)
    return renormalise(guided, conditional, norm, token)


class ProjectedGuidance:
    """Adaptive projected guidance (APG, arXiv 2410.02416): large scales without burnt colours.

    The difference of the two predicted clean pictures is averaged over steps with negative momentum, limited
    in length, and its part along the conditional prediction is left out. One object per drawing, since it
    remembers the steps before.
    """

    def __init__(self, guidance: float, momentum: float = -0.5, limit: float = 15.0) -> None:
        """`limit` is the length, over a whole picture's latents, that the difference may have."""
        self.guidance, self.momentum, self.limit = guidance, momentum, limit
        self._average: Tensor | float = 0.0

    def __call__(self, x: Tensor, sigma: float, conditional: Tensor, unconditional: Tensor) -> Tensor:
        """Velocity (P, ...) to step with from x at noise level sigma."""
        axes = tuple(range(1, x.ndim))
        clean = x - sigma * conditional
        self._average = sigma * (unconditional - conditional) + self.momentum * self._average
        difference = self._average
        length = torch.linalg.vector_norm(difference, dim=axes, keepdim=True)
        difference = difference * (self.limit / length.clamp_min(1e-8)).clamp_max(1.0)
        square = clean.square().sum(axes, keepdim=True).clamp_min(1e-8)
        across = difference - (difference * clean).sum(axes, keepdim=True) / square * clean
        return conditional - (self.guidance - 1) * across / sigma
