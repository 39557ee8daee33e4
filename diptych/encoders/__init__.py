"""Frozen readers of text and pictures, and the small one that learns with its denoiser."""
