"""TFDS builders of data sets that TFDS lacks or can no longer download."""
