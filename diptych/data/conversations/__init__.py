"""Conversations with text and pictures in order: readers, the template, packing, steps."""
