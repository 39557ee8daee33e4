"""Judging a model on the emoji world: GenEval's six categories, questions by type, edits by type."""

from diptych.evaluation.emoji import EvaluationConfig, evaluate

__all__ = ["EvaluationConfig", "evaluate"]
