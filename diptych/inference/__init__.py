"""One request to a result: plan, condition once, denoise or answer; the best of many."""

from diptych.inference.draw import draw, stack_of
from diptych.inference.pipeline import Pipeline, Result
from diptych.inference.select import Candidate, best_of
from diptych.inference.verifiers import load_verifier

__all__ = ["Candidate", "Pipeline", "Result", "best_of", "draw", "load_verifier", "stack_of"]
