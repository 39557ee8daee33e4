"""Full runs as typed functions that return a TrainConfig; a variant is a few lines of difference."""
