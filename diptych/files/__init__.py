"""Files and nothing else: whole writes, journals, typed configs from and to JSON, model folders, lineage."""
