"""Wan-VACE: clips and pictures from text, sources, masks, references and what they follow (arXiv 2503.07598,
2503.20314)."""

NAME = "wan"
INDEX = "model_index.json"
"""What makes a folder a pipeline of diffusers."""
PIPELINE = "WanVACEPipeline"
