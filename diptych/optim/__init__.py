"""Optimisers, what they keep, and which parameters they get."""

from diptych.optim.came import CAME

__all__ = ["CAME"]
