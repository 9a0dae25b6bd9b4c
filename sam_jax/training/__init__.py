"""Training: state, step, optimizer, losses, metrics, checkpoints, loop."""
