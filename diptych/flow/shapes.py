"""One number a row, or a row and frame, beside tensors of many."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def per_row(value: Tensor, like: Tensor) -> Tensor:
    """Numbers (B,) or (B, F) so that they multiply tensors (B, F, ...) like `like`, in its dtype and on its
    device."""
    return value.to(like).view(*value.shape, *[1] * (like.ndim - value.ndim))
