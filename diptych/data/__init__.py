"""Samples to batches: schema, tokens, order, packing, readers."""
