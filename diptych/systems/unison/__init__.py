"""Unison: a language model plans requests and answers questions, other models draw, and a projector hands
what the language model understood to one of them (arXiv 2512.07747)."""

NAME = "unison"
FILE = "unison.json"
"""What makes a folder a model of the family: which models plan and draw."""
