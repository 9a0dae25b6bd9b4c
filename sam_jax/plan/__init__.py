"""What a config needs on a TPU slice, read from compiled programs."""
