"""Training: tasks (losses), the loop, checkpoints, distribution."""
