"""Pictures with captions: layouts on disk, the index, aspect buckets, caches, steps."""
