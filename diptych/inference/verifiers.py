"""Who says whether a picture shows what was asked: one score a picture, higher is better."""

from __future__ import annotations

QUESTION = "does this picture show {}?"
"""What a model is asked, with the prompt in it. Models that verify are trained on these words."""
