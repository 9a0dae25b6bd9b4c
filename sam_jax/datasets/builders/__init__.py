"""TFDS builders of data sets that TFDS itself lacks."""
