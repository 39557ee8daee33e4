"""One request to a result: plan, condition once, denoise or answer."""

from diptych.inference.generate import Pipeline, Result, draw

__all__ = ["Pipeline", "Result", "draw"]
