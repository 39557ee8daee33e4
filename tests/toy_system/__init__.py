"""A third system as a stranger would write it: this folder, and one line in the registry.

It draws small squares in plain colours from their names: bytes of the prompt, pixels, four kinds of layers.
"""
