"""A language model, a bridge and a denoiser over features or latents (BLIP3-o, arXiv 2505.09568)."""

NAME = "blip3o"
MODEL_TYPES = ("blip3o_qwen", "blip3o_qwen_inference")
"""What config.json of a published folder calls its model."""
DECODER = "diffusion-decoder"
"""In a published folder: what draws pictures from features."""
