"""Judging a model on the emoji world (GenEval's six categories, questions by type, edits by type; in trained
or in free words), and planners on requests of every task."""

from diptych.evaluation.emoji import EvaluationConfig, evaluate
from diptych.evaluation.free import evaluate_free

__all__ = ["EvaluationConfig", "evaluate", "evaluate_free"]
