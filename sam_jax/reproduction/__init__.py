"""The paper in miniature: many small networks on handwritten digits."""
