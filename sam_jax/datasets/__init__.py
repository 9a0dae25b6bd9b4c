"""Data sets: the catalog, and the pipelines that feed batches."""
