"""Pure single-device modules, one folder a family: tensors in, tensors out."""

MAX_DEPTH = 1024
"""Blocks of the deepest model that is made: each takes time and memory even without weights."""
