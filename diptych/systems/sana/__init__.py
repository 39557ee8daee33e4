"""SANA, SANA-1.5 and Sprint: a linear diffusion transformer over latents (arXiv 2410.10629, 2501.18427,
2503.09641)."""

NAME = "sana"
INDEX = "model_index.json"
"""What makes a folder a pipeline of diffusers."""
