"""From a heap of pictures with captions to a data set: stages that score, one table of decisions, writers."""
