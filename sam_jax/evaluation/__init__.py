"""Evaluation of trained networks on any data, and their export."""
