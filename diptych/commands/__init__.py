"""The commands, one file each: what it takes as a dataclass, and `run`. What is heavy is imported inside
functions, so that help and plans start at once."""
