"""What a training step, its input and the loop around it cost."""
