"""Runs: workdirs, checkpoints, logs, processes, preemption, sweeps."""
